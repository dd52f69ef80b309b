-- Settings that are judged, as a new session of this login gets them.
SELECT s.name, s.reset_val AS value, s.unit, s.source
FROM pg_settings s
WHERE s.name IN (
  'fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'track_counts', 'track_activities', 'shared_buffers',
  'work_mem', 'maintenance_work_mem', 'max_connections', 'max_wal_size', 'effective_cache_size', 'wal_level',
  'zero_damaged_pages', 'ignore_checksum_failure', 'ignore_system_indexes', 'session_replication_role',
  'password_encryption', 'statement_timeout', 'idle_in_transaction_session_timeout', 'lock_timeout', 'log_statement',
  'log_min_duration_statement', 'log_lock_waits', 'log_checkpoints', 'log_autovacuum_min_duration', 'logging_collector',
  'autovacuum_vacuum_scale_factor', 'autovacuum_freeze_max_age', 'autovacuum_max_workers', 'track_io_timing',
  'enable_seqscan', 'enable_indexscan', 'enable_indexonlyscan', 'enable_bitmapscan', 'enable_hashjoin',
  'enable_mergejoin', 'enable_nestloop', 'enable_sort', 'enable_hashagg', 'constraint_exclusion', 'row_security',
  'default_transaction_isolation', 'hot_standby_feedback'
)
ORDER BY s.name
