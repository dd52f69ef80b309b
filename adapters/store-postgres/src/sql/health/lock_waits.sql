-- Who waits for whom in this database: one row per waiting session and session that it waits for.
SELECT
  w.pid AS waiting_pid, w.usename::text AS waiting_user, w.application_name AS waiting_application,
  COALESCE(l.relation::regclass::text, l.locktype) AS object, l.mode,
  extract(epoch FROM clock_timestamp() - COALESCE((to_jsonb(l) ->> 'waitstart')::timestamptz, w.state_change))::float8
    AS waiting_seconds,
  b.pid AS blocking_pid, b.usename::text AS blocking_user, b.application_name AS blocking_application,
  b.state AS blocking_state,
  extract(epoch FROM clock_timestamp() - b.xact_start)::float8 AS blocking_seconds,
  EXISTS (SELECT FROM pg_locks o WHERE o.pid = b.pid AND NOT o.granted) AS blocker_waits
FROM pg_locks l
JOIN pg_stat_activity w ON w.pid = l.pid AND w.datname = current_database()
CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS blocking(pid)
LEFT JOIN pg_stat_activity b ON b.pid = blocking.pid
WHERE NOT l.granted
ORDER BY waiting_seconds DESC
LIMIT 500
