-- Sessions of superusers in this database, per login and application.
SELECT a.usename::text AS user, a.application_name AS application, count(*)::int AS sessions
FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND r.rolsuper
GROUP BY 1, 2
ORDER BY sessions DESC
LIMIT 100
