-- One version of a secret, sealed.
-- 1: project. 2: name. 3: version.
SELECT name, version, data_key, value
FROM secrets
WHERE project = ? AND name = ? AND version = ?
