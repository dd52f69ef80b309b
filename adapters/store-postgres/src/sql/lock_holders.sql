-- Sessions that hold or await locks on tables, the oldest transaction first; ours and autovacuum's own are left out:
-- it gives way by itself. A parallel worker holds what its leader holds.
-- $1: names of tables as statements write them.
SELECT l.pid, coalesce(a.usename, '') AS "user", coalesce(a.application_name, '') AS application, a.state,
       (extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) * 1000)::bigint AS transaction_age_ms,
       n.nspname || '.' || c.relname AS "table",
       pg_catalog.upper(pg_catalog.regexp_replace(pg_catalog.regexp_replace(l.mode, 'Lock$', ''), '(.)([A-Z])', '\1 \2', 'g')) AS lock,
       NOT l.granted AS waiting,
       to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS started,
       coalesce(a.backend_type, 'not visible') AS kind
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation'
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.relation IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest($1::text[]) AS name)
  AND l.pid <> pg_catalog.pg_backend_pid()
  AND (a.leader_pid IS NULL OR a.leader_pid = l.pid)
  AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
ORDER BY l.granted DESC, a.xact_start NULLS LAST, l.pid
LIMIT 50
