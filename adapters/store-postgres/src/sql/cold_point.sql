-- The position in the log and the server's time when rows began to be read: what was committed behind it is not among them.
SELECT
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_lsn() END::text AS position,
  (extract(epoch FROM pg_catalog.now()) * 1000000)::bigint AS server_us
