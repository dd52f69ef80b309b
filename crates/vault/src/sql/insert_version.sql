-- Adds a version unless another process added or removed one since.
-- 1 to 6: the row. 7: project. 8: name. 9: the newest version that is expected to be there, 0 for none.
INSERT INTO secrets (project, name, version, data_key, value, created_us)
SELECT ?, ?, ?, ?, ?, ?
WHERE COALESCE((SELECT MAX(version) FROM secrets WHERE project = ? AND name = ?), 0) = ?
