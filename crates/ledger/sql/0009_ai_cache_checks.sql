-- Answers that were given to a question in other words, and asked for once more: whether both agree.
CREATE TABLE ai_cache_checks (
    project    TEXT    NOT NULL,
    id         TEXT    NOT NULL,     -- the request that asked once more, as in ai_usage
    of         TEXT    NOT NULL,     -- the request that was answered from the cache
    at_us      INTEGER NOT NULL,
    route      TEXT    NOT NULL,
    similarity INTEGER NOT NULL,     -- of the two questions, in ten-thousandths
    agrees     INTEGER NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX ai_cache_checks_at ON ai_cache_checks (project, at_us);
