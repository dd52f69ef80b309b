-- Copies of backups in other repositories than the one they were made in. A cache, as `backups` is.
CREATE TABLE backup_copies (
    project       TEXT    NOT NULL,
    backup        TEXT    NOT NULL,
    repository    TEXT    NOT NULL,
    snapshot      TEXT    NOT NULL,    -- the repository's id
    state         TEXT    NOT NULL,    -- complete, forgotten
    copied_us     INTEGER NOT NULL,
    verified_us   INTEGER NOT NULL,    -- when its manifest and all its bytes were last read back
    bytes_added   INTEGER NOT NULL,    -- bytes that its repository had not yet
    problem       TEXT,                -- what is wrong with it
    PRIMARY KEY (project, backup, repository)
);
