-- Batches and training at providers: who asked for them, what is set aside until they end, what they came to.
CREATE TABLE ai_jobs (
    id                   TEXT    PRIMARY KEY,  -- of the request that made it, as on its receipt
    project              TEXT    NOT NULL,
    kind                 TEXT    NOT NULL,     -- batch, message_batch, fine_tuning
    provider             TEXT    NOT NULL,
    remote_id            TEXT    NOT NULL,     -- the provider's; empty until it is known
    state                TEXT    NOT NULL,     -- creating, open, settled, refused
    status               TEXT    NOT NULL,     -- the provider's last word
    holder               TEXT    NOT NULL,     -- the process that made it
    made_us              INTEGER NOT NULL,
    looked_us            INTEGER NOT NULL,     -- when the provider was last asked
    settled_us           INTEGER,
    set_aside_usd_nanos  INTEGER NOT NULL,
    cost_usd_nanos       INTEGER,
    base_model           TEXT,                 -- what was trained
    tuned_model          TEXT,                 -- what the training made
    problem              TEXT,                 -- why the last look failed
    body                 TEXT    NOT NULL      -- JSON: who, models, accounts
);
CREATE INDEX ai_jobs_project ON ai_jobs (project, made_us);
CREATE INDEX ai_jobs_state ON ai_jobs (state, looked_us);

-- Files and jobs at providers, and the project that they belong to.
CREATE TABLE ai_things (
    project    TEXT    NOT NULL,
    provider   TEXT    NOT NULL,
    remote_id  TEXT    NOT NULL,
    kind       TEXT    NOT NULL,               -- file, upload, batch, message_batch, fine_tuning
    key_id     TEXT    NOT NULL,               -- the virtual key that made it
    made_us    INTEGER NOT NULL,
    PRIMARY KEY (project, provider, remote_id)
);
