-- Virtual keys of the AI gateway, rotations of providers' keys, and what a daemon last said of its targets.

CREATE TABLE ai_keys (
    id             TEXT PRIMARY KEY,    -- stays when the value changes: budgets and usage refer to it
    project        TEXT NOT NULL,
    name           TEXT NOT NULL,
    key_hash       BLOB NOT NULL UNIQUE,  -- HMAC-SHA-256 under a key derived from the master key
    old_hash       BLOB,                -- of the value before, until old_until_us
    old_until_us   INTEGER,
    routes         TEXT NOT NULL,       -- JSON array; * for all
    models         TEXT NOT NULL,       -- JSON array of provider/model, provider/* or *
    role           TEXT NOT NULL,       -- reader or requester
    person         TEXT,
    rpm            INTEGER,
    tpm            INTEGER,
    concurrent     INTEGER,
    created_us     INTEGER NOT NULL,
    regenerated_us INTEGER,
    expires_us     INTEGER,
    revoked_us     INTEGER
);
CREATE INDEX ai_keys_name ON ai_keys (project, name);

-- One row for each provider key that is or was rotated. A version of a secret serves unless a row here says otherwise.
CREATE TABLE ai_rotations (
    id             TEXT PRIMARY KEY,
    project        TEXT NOT NULL,
    provider       TEXT NOT NULL,       -- name in the project file
    secret         TEXT NOT NULL,       -- name of the secret that holds the key
    old_version    INTEGER NOT NULL,
    new_version    INTEGER NOT NULL,
    state          TEXT NOT NULL,       -- adding, added, overlap, draining, done, failed, undone
    reason         TEXT NOT NULL,       -- why it failed or was undone; empty otherwise
    overlap_us     INTEGER NOT NULL,    -- how long both versions serve
    started_us     INTEGER NOT NULL,
    changed_us     INTEGER NOT NULL,    -- when it came into this state
    drained_us     INTEGER,             -- when a daemon saw the last call on the old version end
    steps          TEXT NOT NULL        -- JSON array of {step, at, …}: what the proof consists of
);
CREATE INDEX ai_rotations_secret ON ai_rotations (project, secret, started_us);
CREATE UNIQUE INDEX ai_rotations_open ON ai_rotations (project, secret)
    WHERE state IN ('adding', 'added', 'overlap', 'draining');

-- What a daemon knows of keys, targets and itself, for whoever looks from another process. Rewritten, not a history.
CREATE TABLE ai_states (
    project  TEXT NOT NULL,
    kind     TEXT NOT NULL,             -- key, target, table
    name     TEXT NOT NULL,             -- such as openai/main@3 of a key
    holder   TEXT NOT NULL,             -- which process said so
    state    TEXT NOT NULL,             -- JSON
    at_us    INTEGER NOT NULL,
    PRIMARY KEY (project, kind, name, holder)
);
