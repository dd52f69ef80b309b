-- Checkpoints that came by time and those that were asked for, by the size of the log or by hand; one row.
SELECT
  c.num_timed AS timed, c.num_requested AS requested, extract(epoch FROM now() - c.stats_reset)::float8 AS seconds,
  current_setting('max_wal_size') AS max_wal_size, current_setting('checkpoint_timeout') AS checkpoint_timeout
FROM pg_stat_checkpointer c
