-- Extensions of which the server has another version than the database.
SELECT e.name::text AS name, e.installed_version AS installed, e.default_version AS available
FROM pg_available_extensions e
WHERE e.installed_version IS NOT NULL AND e.default_version IS DISTINCT FROM e.installed_version
ORDER BY 1
