-- How old the planner's knowledge of tables is, and whether they were ever vacuumed; those most changed first.
SELECT
  t.full_name AS name, s.n_live_tup AS live, s.n_mod_since_analyze AS changed, s.n_ins_since_vacuum AS inserted,
  GREATEST(t.reltuples, -1)::float8 AS known_rows,
  s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL
    OR EXISTS (SELECT FROM pg_stats p WHERE p.schemaname = t.nspname AND p.tablename = t.relname) AS analyzed,
  s.last_vacuum IS NOT NULL OR s.last_autovacuum IS NOT NULL OR t.relallvisible > 0 AS vacuumed,
  extract(epoch FROM now() - GREATEST(s.last_analyze, s.last_autoanalyze))::float8 AS analyzed_seconds_ago
FROM {tables} t JOIN pg_stat_all_tables s ON s.relid = t.oid
WHERE t.relkind IN ('r', 'm') AND (s.n_mod_since_analyze > 0 OR s.n_ins_since_vacuum > 0 OR t.reltuples < 0)
ORDER BY s.n_mod_since_analyze DESC
LIMIT 200
