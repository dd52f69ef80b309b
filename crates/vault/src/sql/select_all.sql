-- Every version of every secret of a project, sealed.
-- 1: project.
SELECT name, version, data_key, value
FROM secrets
WHERE project = ?
ORDER BY name, version
