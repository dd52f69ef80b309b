-- Replies of models that are given again to the same question.
CREATE TABLE ai_cache (
    project   TEXT    NOT NULL,
    question  TEXT    NOT NULL,     -- SHA-256 of the tenant and the canonical request, hex
    format    TEXT    NOT NULL,
    body      BLOB    NOT NULL,     -- sealed: the whole reply as JSON
    usage     TEXT    NOT NULL,     -- JSON: tokens when it was made
    made_by   TEXT    NOT NULL,     -- provider/model
    until_us  INTEGER NOT NULL,
    PRIMARY KEY (project, question)
);
CREATE INDEX ai_cache_until ON ai_cache (until_us);
