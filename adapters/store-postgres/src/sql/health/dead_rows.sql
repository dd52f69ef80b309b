-- Tables with the most dead rows, and how many of them would make autovacuum begin.
SELECT
  t.full_name AS name, s.n_live_tup AS live, s.n_dead_tup AS dead,
  COALESCE(
    (SELECT o.option_value::float8 FROM pg_options_to_table(t.reloptions) o WHERE o.option_name = 'autovacuum_vacuum_threshold'),
    current_setting('autovacuum_vacuum_threshold')::float8
  ) + COALESCE(
    (SELECT o.option_value::float8 FROM pg_options_to_table(t.reloptions) o WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),
    current_setting('autovacuum_vacuum_scale_factor')::float8
  ) * GREATEST(t.reltuples, 0) AS autovacuum_at,
  extract(epoch FROM now() - GREATEST(s.last_vacuum, s.last_autovacuum))::float8 AS vacuumed_seconds_ago
FROM {tables} t JOIN pg_stat_all_tables s ON s.relid = t.oid
WHERE s.n_dead_tup > 0 AND t.relkind IN ('r', 'm')
ORDER BY s.n_dead_tup DESC
LIMIT 50
