-- Counters of this database since its statistics began; one row.
SELECT
  d.blks_hit::float8 AS blocks_hit, d.blks_read::float8 AS blocks_read, d.temp_files AS temporary_files,
  d.temp_bytes AS temporary_bytes, d.deadlocks, d.conflicts,
  (SELECT setting::float8 FROM pg_settings WHERE name = 'shared_buffers')
    * current_setting('block_size')::int AS shared_buffers_bytes
FROM pg_stat_database d WHERE d.datname = current_database()
