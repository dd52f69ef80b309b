-- Open transactions of this database, the oldest first. Texts of statements are not read: they hold values.
SELECT
  a.pid, a.usename::text AS user, a.application_name AS application, a.state,
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_seconds,
  extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_seconds
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
  AND a.backend_type = 'client backend'
ORDER BY a.xact_start
LIMIT 200
