-- Columns of the indexes that can hold or find a key, in the index's order: primary keys first, then unique ones
-- without NULL, then other B-trees.
-- $1: the relation's oid.
SELECT
  ARRAY(
    SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, position)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.position <= i.indnkeyatts ORDER BY k.position
  ) AS columns,
  i.indisprimary OR i.indisunique AND NOT EXISTS (
    SELECT FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, position)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE k.position <= i.indnkeyatts AND NOT a.attnotnull
  ) AS is_key
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, is_key DESC, i.indnkeyatts, c.relname
