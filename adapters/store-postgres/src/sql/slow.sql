-- What the statements of this database have cost, those with the most time first, and the sum over all of them.
-- $1: logins that are left out. $2: most statements. {schema}: where the extension is.
SELECT
  s.queryid::text AS id, COALESCE(s.query, '') AS text, r.rolname::text AS user, s.calls,
  s.total_exec_time AS total_ms, s.mean_exec_time AS mean_ms, s.stddev_exec_time AS stddev_ms,
  s.max_exec_time AS max_ms, s.rows, s.shared_blks_hit AS blocks_hit, s.shared_blks_read AS blocks_read,
  s.temp_blks_written AS blocks_temporary, s.queryid IS NULL AS hidden,
  sum(s.total_exec_time) OVER () AS all_ms
FROM {schema}.pg_stat_statements s
LEFT JOIN pg_roles r ON r.oid = s.userid
WHERE s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND COALESCE(r.rolname, '') <> ALL ($1::text[])
ORDER BY s.total_exec_time DESC
LIMIT $2
