-- How far the log of a store was followed: a cache of what its repository holds, and of what the server last said.
CREATE TABLE backup_logs (
    project        TEXT    NOT NULL,
    store          TEXT    NOT NULL,
    plan           TEXT    NOT NULL,
    repository     TEXT    NOT NULL,
    holder         TEXT    NOT NULL,    -- the process that follows or last followed
    source         TEXT    NOT NULL,    -- the server's own identity
    timeline       INTEGER NOT NULL,
    written        TEXT    NOT NULL,    -- how far the server had written
    kept           TEXT    NOT NULL,    -- how far it is in the repository
    until_us       INTEGER,             -- what was acknowledged before, by the server's clock, is in the repository
    retained_bytes INTEGER NOT NULL,    -- what the server keeps for the follower
    problem        TEXT,                -- what goes wrong at the moment
    looked_us      INTEGER NOT NULL,
    gap            TEXT,                -- why a part of the log will never come
    gap_us         INTEGER,
    PRIMARY KEY (project, store)
);
