-- Backups that were begun, and what became of them. A cache: the repositories hold what is needed to make it anew.
CREATE TABLE backups (
    project       TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    plan          TEXT    NOT NULL,
    store         TEXT    NOT NULL,
    repository    TEXT    NOT NULL,
    snapshot      TEXT    NOT NULL,    -- the repository's id; empty until it is written
    method        TEXT    NOT NULL,    -- logical, physical
    state         TEXT    NOT NULL,    -- running, complete, failed, forgotten
    holder        TEXT    NOT NULL,    -- the process that makes it
    begun_us      INTEGER NOT NULL,
    point_us      INTEGER,             -- the state that it holds
    finished_us   INTEGER,
    bytes         INTEGER,
    bytes_added   INTEGER,
    rows          INTEGER,
    level         TEXT    NOT NULL,    -- none, l0 to l4: the highest that it has passed
    verified_us   INTEGER,             -- when it was last restored and compared
    restore_ms    INTEGER,             -- how long that took, until it answered questions
    problem       TEXT,                -- why it failed, or what is wrong with it
    suspicions    TEXT    NOT NULL,    -- JSON: what is odd about it beside the one before
    PRIMARY KEY (project, id)
);
CREATE INDEX backups_store ON backups (project, store, begun_us);
CREATE INDEX backups_state ON backups (state, project);
