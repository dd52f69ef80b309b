-- Tables without a primary key, the largest first.
SELECT
  t.full_name AS name, GREATEST(t.reltuples::bigint, COALESCE(pg_stat_get_live_tuples(t.oid), 0)) AS rows,
  (
    SELECT format('%I.%I', t.nspname, ic.relname)
    FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (
        SELECT FROM pg_attribute a
        WHERE a.attrelid = t.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND NOT a.attnotnull
      )
    LIMIT 1
  ) AS candidate
FROM {tables} t
WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition
  AND NOT EXISTS (SELECT FROM pg_constraint con WHERE con.conrelid = t.oid AND con.contype = 'p')
ORDER BY rows DESC
LIMIT 200
