-- Pages that B-tree indexes have, and pages that their entries would need in leaves filled as the index says; the
-- largest. An entry takes 8 bytes of header, 4 of line pointer and its columns, rounded up to 8; equal keys that are
-- stored once make an index smaller than this, never larger.
SELECT
  t.full_name AS table_name, format('%I.%I', t.nspname, ic.relname) AS name, ic.relpages::bigint AS pages,
  current_setting('block_size')::int AS page_bytes, w.complete,
  (1 + ceil(
    GREATEST(ic.reltuples, 0) * (12 + ceil(w.width / 8) * 8) / (
      (current_setting('block_size')::int - 40) * COALESCE(
        (SELECT o.option_value::float8 FROM pg_options_to_table(ic.reloptions) o WHERE o.option_name = 'fillfactor'), 90
      ) / 100
    ) * 1.02
  ))::float8 AS pages_needed
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
JOIN {tables} t ON t.oid = i.indrelid
CROSS JOIN LATERAL (
  SELECT COALESCE(sum((1 - s.null_frac) * s.avg_width), 0)::float8 AS width, count(s.avg_width) = count(*) AS complete
  FROM pg_attribute ia
  LEFT JOIN pg_attribute ta ON ta.attrelid = i.indrelid AND ta.attnum = i.indkey[ia.attnum - 1] AND ta.attnum > 0
  LEFT JOIN pg_stats s
    ON s.schemaname = t.nspname AND NOT s.inherited
    AND s.tablename = CASE WHEN ta.attname IS NULL THEN ic.relname ELSE t.relname END
    AND s.attname = COALESCE(ta.attname, ia.attname)
  WHERE ia.attrelid = i.indexrelid
) AS w
WHERE i.indisvalid AND ic.relpages >= 128
ORDER BY ic.relpages DESC
LIMIT 100
