-- Sessions of clients, of all databases, by what they have in common; one row per group.
SELECT 'state' AS by, COALESCE(state, 'not visible') AS of, count(*) AS sessions
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL GROUP BY 2
UNION ALL
SELECT 'application', COALESCE(NULLIF(application_name, ''), '(no name)'), count(*)
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL GROUP BY 2
UNION ALL
SELECT 'user', COALESCE(usename::text, '(none)'), count(*)
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL GROUP BY 2
UNION ALL
SELECT 'database', COALESCE(datname::text, '(none)'), count(*)
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL GROUP BY 2
ORDER BY 1, 3 DESC, 2
