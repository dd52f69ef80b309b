-- How far each backup repository was read back: each day has its share of the data.
CREATE TABLE repository_shares (
    project       TEXT    NOT NULL,
    repository    TEXT    NOT NULL,
    last_day      INTEGER NOT NULL,    -- days since 1970-01-01 whose shares were all read back
    PRIMARY KEY (project, repository)
);
