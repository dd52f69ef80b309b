-- Indexes.
-- $1: oids of the tables.
SELECT
  i.indrelid AS table_oid,
  c.relname AS name,
  ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts::int) AS k ORDER BY k) AS columns,
  i.indisunique AS is_unique,
  m.amname AS method,
  pg_get_indexdef(i.indexrelid) AS definition,
  pg_get_expr(i.indpred, i.indrelid) AS predicate,
  EXISTS (
    SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
  ) AS backs_constraint,
  i.indisvalid AND i.indisready AS is_valid,
  pg_relation_size(i.indexrelid) AS size_bytes
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY ($1) AND i.indislive
ORDER BY i.indrelid, c.relname COLLATE "C"
