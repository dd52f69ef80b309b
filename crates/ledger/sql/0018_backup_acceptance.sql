-- That a person has looked at what is odd about a backup, and what was counted in its restored copy.
ALTER TABLE backups ADD COLUMN accepted_us INTEGER;   -- when what is odd about it was accepted; NULL: it was not
ALTER TABLE backups ADD COLUMN counted     TEXT;      -- JSON: {table: rows} of the restored copy, where the dump saw files and no rows

-- How far the clock was ahead of the machine's own count of the time that it runs; one row for each start of the machine.
CREATE TABLE backup_clocks (
    project       TEXT    NOT NULL,
    boot          TEXT    NOT NULL,    -- which start
    ahead_us      INTEGER NOT NULL,    -- clock less running time, when it was last looked at
    jumped_us     INTEGER,             -- running time when the clock was last seen to have jumped forward
    PRIMARY KEY (project, boot)
);
