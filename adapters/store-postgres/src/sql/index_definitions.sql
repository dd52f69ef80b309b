-- Indexes as the server prints them.
-- $1: oids of the indexes.
SELECT
  i.indexrelid AS index_oid,
  ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts::int) AS k ORDER BY k) AS columns,
  pg_get_indexdef(i.indexrelid) AS definition,
  pg_get_expr(i.indpred, i.indrelid) AS predicate
FROM pg_index i
WHERE i.indexrelid = ANY ($1)
