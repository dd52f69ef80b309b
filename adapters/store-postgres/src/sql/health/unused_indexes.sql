-- Indexes that no query has used since the statistics began; none that keep a promise (keys, constraints, foreign
-- keys, replication).
SELECT
  t.full_name AS table_name, format('%I.%I', s.schemaname, s.indexrelname) AS name, ic.relpages::bigint AS pages,
  current_setting('block_size')::int AS page_bytes,
  (ts.n_tup_ins + ts.n_tup_upd + ts.n_tup_del)::bigint AS writes
FROM pg_stat_all_indexes s
JOIN pg_index i ON i.indexrelid = s.indexrelid
JOIN pg_class ic ON ic.oid = s.indexrelid
JOIN {tables} t ON t.oid = i.indrelid
JOIN pg_stat_all_tables ts ON ts.relid = i.indrelid
WHERE s.idx_scan = 0 AND i.indisvalid AND NOT i.indisunique AND NOT i.indisreplident AND NOT i.indisclustered
  AND NOT EXISTS (SELECT FROM pg_constraint con WHERE con.conindid = i.indexrelid)
  AND NOT EXISTS (
    SELECT FROM pg_constraint con WHERE con.conrelid = i.indrelid AND con.contype = 'f' AND con.conkey[1] = i.indkey[0]
  )
  AND ic.relpages >= 32
ORDER BY ic.relpages DESC
LIMIT 100
