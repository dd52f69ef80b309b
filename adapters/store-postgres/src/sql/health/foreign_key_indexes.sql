-- Foreign keys without an index whose first columns are theirs, in any order; the largest tables first.
SELECT
  t.full_name AS table_name, format('%I', con.conname) AS name, con.confrelid::regclass::text AS parent,
  GREATEST(t.reltuples::bigint, COALESCE(pg_stat_get_live_tuples(t.oid), 0)) AS rows,
  (
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY k.n)
    FROM unnest(con.conkey) WITH ORDINALITY k(attnum, n) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
  ) AS columns,
  ARRAY(
    SELECT a.attname::text
    FROM unnest(con.conkey) WITH ORDINALITY k(attnum, n) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
    ORDER BY k.n
  ) AS column_names,
  t.nspname::text AS namespace, t.relname::text AS relation
FROM pg_constraint con
JOIN {tables} t ON t.oid = con.conrelid
WHERE con.contype = 'f' AND con.conparentid = 0
  AND NOT EXISTS (
    SELECT FROM pg_index i
    WHERE i.indrelid = con.conrelid AND i.indisvalid AND i.indpred IS NULL
      AND i.indnkeyatts >= cardinality(con.conkey)
      AND (i.indkey::int2[])[0:cardinality(con.conkey) - 1] @> con.conkey
      AND (i.indkey::int2[])[0:cardinality(con.conkey) - 1] <@ con.conkey
  )
ORDER BY rows DESC
LIMIT 200
