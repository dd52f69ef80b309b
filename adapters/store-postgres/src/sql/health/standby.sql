-- How this standby keeps up; one row.
SELECT
  pg_is_wal_replay_paused() AS paused,
  (SELECT count(*)::int FROM pg_stat_wal_receiver) AS receivers,
  pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::float8 AS waiting_bytes,
  extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float8 AS seconds_behind
