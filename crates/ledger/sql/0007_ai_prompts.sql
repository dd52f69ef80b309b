-- Prompts and replies of routes that keep them, until their time is over.
CREATE TABLE ai_prompts (
    project      TEXT    NOT NULL,
    id           TEXT    NOT NULL,     -- the request, as in ai_usage
    at_us        INTEGER NOT NULL,
    until_us     INTEGER NOT NULL,     -- deleted from then on
    route        TEXT    NOT NULL,
    key_name     TEXT    NOT NULL,
    person       TEXT    NOT NULL,     -- empty: the key belongs to nobody
    format       TEXT    NOT NULL,
    status       INTEGER NOT NULL,
    ending       TEXT    NOT NULL,
    prompt_bytes INTEGER NOT NULL,     -- before anything was cut or replaced
    reply_bytes  INTEGER NOT NULL,
    redactions   INTEGER NOT NULL,     -- keys and secrets that were replaced
    prompt       BLOB    NOT NULL,     -- sealed
    reply        BLOB    NOT NULL,     -- sealed
    PRIMARY KEY (project, id)
);
CREATE INDEX ai_prompts_until ON ai_prompts (project, until_us);
CREATE INDEX ai_prompts_at ON ai_prompts (project, at_us);
