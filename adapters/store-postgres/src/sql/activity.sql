-- Sessions of this database that wait, are in a transaction or run a statement, and those that block one of them; all
-- that are named in $1 besides. Our own session is left out.
-- $1: numbers of sessions that are wanted whatever they do.
WITH waiting AS (
  SELECT l.pid, min(to_jsonb(l) ->> 'waitstart')::timestamptz AS since
  FROM pg_catalog.pg_locks l WHERE NOT l.granted GROUP BY l.pid
), blocked AS (
  SELECT w.pid, w.since, pg_catalog.pg_blocking_pids(w.pid) AS by FROM waiting w
)
SELECT
  a.pid,
  COALESCE(to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '') AS backend_start,
  COALESCE(a.backend_type, 'not visible') AS kind,
  COALESCE(a.usename::text, '') AS user,
  COALESCE(a.datname::text, '') AS database,
  COALESCE(a.application_name, '') AS application,
  COALESCE(host(a.client_addr), '') AS client,
  COALESCE(a.state, '') AS state,
  COALESCE(a.wait_event_type || ': ' || a.wait_event, '') AS waits_on,
  (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::float8 AS transaction_ms,
  (extract(epoch FROM clock_timestamp() - a.query_start) * 1000)::float8 AS statement_ms,
  (extract(epoch FROM clock_timestamp() - a.state_change) * 1000)::float8 AS state_ms,
  a.backend_xid IS NOT NULL AS has_written,
  COALESCE(a.backend_xid IS NOT NULL AND a.xact_start < a.query_start, false) AS has_written_before,
  COALESCE(a.query, '') AS statement,
  COALESCE(to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '') AS query_start,
  COALESCE(b.by, '{}') AS blocked_by,
  (extract(epoch FROM clock_timestamp() - b.since) * 1000)::float8 AS waiting_ms,
  a.leader_pid
FROM pg_catalog.pg_stat_activity a
LEFT JOIN blocked b ON b.pid = a.pid
WHERE a.pid <> pg_catalog.pg_backend_pid()
  AND (a.datname = current_database() AND (b.pid IS NOT NULL OR a.xact_start IS NOT NULL OR a.state = 'active')
    OR a.pid IN (SELECT unnest(by) FROM blocked JOIN pg_catalog.pg_stat_activity w USING (pid)
                 WHERE w.datname = current_database())
    OR a.pid = ANY ($1))
ORDER BY a.xact_start NULLS LAST, a.pid
LIMIT 1000
