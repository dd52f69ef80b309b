-- What people asked for and what was planned may name anything: sealed like bodies, each value bound to its row.
-- Steward seals what is there into these tables, then the next script puts them in the place of the old ones.
CREATE TABLE sealed_plans (
    digest   TEXT NOT NULL,
    project  TEXT NOT NULL,
    request  TEXT NOT NULL,
    body     BLOB NOT NULL,          -- canonical JSON, sealed; holds no secret
    made_us  INTEGER NOT NULL,
    PRIMARY KEY (project, digest)
);

CREATE TABLE sealed_tasks (
    id           TEXT NOT NULL,
    project      TEXT NOT NULL,
    title        BLOB NOT NULL,      -- sealed
    state        TEXT NOT NULL,
    source       BLOB NOT NULL,      -- the text as it came, sealed
    body         BLOB NOT NULL,      -- JSON, sealed: the task, its plan and where it stands
    report       BLOB,               -- JSON, sealed
    created_us   INTEGER NOT NULL,
    updated_us   INTEGER NOT NULL,
    PRIMARY KEY (project, id)
);
