-- Copies that follow this server, and the copies that a commit waits for; at least one row.
SELECT
  current_setting('synchronous_standby_names') AS synchronous_names,
  r.pid, r.application_name AS name, r.state, r.sync_state,
  pg_wal_lsn_diff(pg_current_wal_lsn(), r.replay_lsn)::float8 AS behind_bytes,
  extract(epoch FROM r.replay_lag)::float8 AS behind_seconds
FROM (SELECT) AS one
LEFT JOIN pg_stat_replication r ON true
ORDER BY behind_bytes DESC NULLS LAST
