-- The versions of a secret, oldest first.
-- 1: project. 2: name.
SELECT version
FROM secrets
WHERE project = ? AND name = ?
ORDER BY version
