-- What AI calls used and cost. Money is in nano-dollars (thousand-millionths of a US dollar), whole numbers.

-- One row for each attempt that was billed; `id` is the request's, with `#2` … for further attempts of the same request.
-- Rows are added in batches; the hash over each batch's rows enters the chain as one event `ai.usage`.
CREATE TABLE ai_usage (
    id               TEXT    PRIMARY KEY,
    project          TEXT    NOT NULL,
    at_us            INTEGER NOT NULL,     -- when the request came in
    key_id           TEXT    NOT NULL,
    key_name         TEXT    NOT NULL,
    person           TEXT    NOT NULL,     -- empty for none
    route            TEXT    NOT NULL,
    provider         TEXT    NOT NULL,
    model            TEXT    NOT NULL,     -- the provider's name for it
    operation        TEXT    NOT NULL,     -- chat, embeddings, …
    streaming        INTEGER NOT NULL,
    tier             TEXT    NOT NULL,     -- standard, batch, flex, priority
    input            INTEGER NOT NULL,     -- tokens by class; the classes do not overlap
    cache_read       INTEGER NOT NULL,
    cache_write_5m   INTEGER NOT NULL,
    cache_write_1h   INTEGER NOT NULL,
    audio_input      INTEGER NOT NULL,
    output           INTEGER NOT NULL,     -- with the reasoning
    reasoning        INTEGER NOT NULL,     -- part of `output`
    audio_output     INTEGER NOT NULL,
    estimated        INTEGER NOT NULL,     -- 1: the provider did not count; 2: the process ended, what was set aside is taken
    cost_usd_nanos   INTEGER NOT NULL,
    price_row        TEXT    NOT NULL,     -- empty: no price was known
    price_table      TEXT    NOT NULL,
    ending           TEXT    NOT NULL,     -- complete, truncated, interrupted, disconnected, failed, lost
    status           INTEGER NOT NULL,
    cache            TEXT    NOT NULL,     -- off, bypass, miss, hit
    first_byte_us    INTEGER,
    took_us          INTEGER NOT NULL,
    receipt          TEXT    NOT NULL,     -- JSON: attempts and the rest
    batch            TEXT    NOT NULL,     -- in whose hash it is
    hash             TEXT    NOT NULL      -- SHA-256 of the row without `batch` and `hash`, hex
);
CREATE INDEX ai_usage_time ON ai_usage (project, at_us);

-- What was spent of each budget in each period.
CREATE TABLE ai_accounts (
    project          TEXT    NOT NULL,
    account          TEXT    NOT NULL,     -- budget, scope and value, such as month/key/vk_…
    period_us        INTEGER NOT NULL,     -- its beginning; 0 for a budget without end
    spent_usd_nanos  INTEGER NOT NULL,
    PRIMARY KEY (project, account, period_us)
);

-- Parts of budgets that a process took ahead of use. What is left of a budget is its limit, less what was spent, less
-- what the slices hold.
CREATE TABLE ai_slices (
    project           TEXT    NOT NULL,
    account           TEXT    NOT NULL,
    period_us         INTEGER NOT NULL,
    holder            TEXT    NOT NULL,    -- process and random part
    amount_usd_nanos  INTEGER NOT NULL,
    spent_usd_nanos   INTEGER NOT NULL,    -- of the amount, in rows of `ai_usage` already
    expires_us        INTEGER NOT NULL,
    PRIMARY KEY (project, account, period_us, holder)
);
CREATE INDEX ai_slices_holder ON ai_slices (holder);

-- Requests under way and what was set aside for them. Those of a process that is gone are taken as spent.
CREATE TABLE ai_reservations (
    id               TEXT    PRIMARY KEY,  -- of the request
    project          TEXT    NOT NULL,
    holder           TEXT    NOT NULL,
    at_us            INTEGER NOT NULL,
    usd_nanos        INTEGER NOT NULL,
    body             TEXT    NOT NULL      -- JSON: who, what, and the accounts
);
CREATE INDEX ai_reservations_holder ON ai_reservations (holder);

-- What was set besides the project file: raised budgets, limits of single keys.
CREATE TABLE ai_settings (
    project     TEXT    NOT NULL,
    name        TEXT    NOT NULL,          -- budget/month, limits/vk_…
    value       TEXT    NOT NULL,          -- JSON
    set_us      INTEGER NOT NULL,
    PRIMARY KEY (project, name)
);
