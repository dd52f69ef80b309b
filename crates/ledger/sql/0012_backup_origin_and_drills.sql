-- Where the record of a backup comes from, and whether its manifest is signed by the project's key.
ALTER TABLE backups ADD COLUMN origin TEXT NOT NULL DEFAULT 'made';    -- made: here; found: in its repository, by `catalog rebuild`
ALTER TABLE backups ADD COLUMN signed TEXT NOT NULL DEFAULT 'unsigned'; -- signed, unsigned, forged

-- Disasters that were played on scratch copies, with the times that were measured.
CREATE TABLE backup_drills (
    project       TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    lose          TEXT    NOT NULL,    -- machine, database, table, repository, key
    subject       TEXT    NOT NULL,    -- the store
    backup        TEXT    NOT NULL,    -- the backup that was restored; empty where there was none
    result        TEXT    NOT NULL,    -- passed, failed, not_tried
    holder        TEXT    NOT NULL,    -- the process that played it
    begun_us      INTEGER NOT NULL,
    finished_us   INTEGER,             -- NULL while it runs, or where it ended in the middle
    bytes         INTEGER,             -- bytes of the parts that were read back
    rows          INTEGER,
    recovery_ms   INTEGER,             -- from the loss until every table was compared
    objective_ms  INTEGER NOT NULL,
    steps         TEXT    NOT NULL,    -- JSON: [{step, ms}]
    problem       TEXT,                -- why it failed, or was not tried
    PRIMARY KEY (project, id)
);
CREATE INDEX backup_drills_subject ON backup_drills (project, subject, begun_us);
