-- The newest version of a secret, sealed.
-- 1: project. 2: name.
SELECT version, data_key, value, last_used_us
FROM secrets
WHERE project = ? AND name = ?
ORDER BY version DESC
LIMIT 1
