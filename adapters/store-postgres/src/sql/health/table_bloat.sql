-- Pages that tables have, and pages that their rows would need by the planner's statistics; the largest tables.
-- A row takes 24 bytes of header, 4 of line pointer and its columns, rounded up to 8.
SELECT
  t.full_name AS name, t.relpages::bigint AS pages, t.reltuples::float8 AS known_rows,
  current_setting('block_size')::int AS page_bytes, w.complete,
  ceil(
    t.reltuples / GREATEST(1, floor(
      (current_setting('block_size')::int - 24) * COALESCE(
        (SELECT o.option_value::float8 FROM pg_options_to_table(t.reloptions) o WHERE o.option_name = 'fillfactor'), 100
      ) / 100 / (28 + ceil(w.width / 8) * 8)
    ))
  )::float8 AS pages_needed
FROM {tables} t
CROSS JOIN LATERAL (
  SELECT
    COALESCE(sum((1 - s.null_frac) * s.avg_width), 0)::float8 AS width,
    count(s.attname) = count(*) AS complete
  FROM pg_attribute a
  LEFT JOIN pg_stats s
    ON s.schemaname = t.nspname AND s.tablename = t.relname AND s.attname = a.attname AND NOT s.inherited
  WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
) AS w
WHERE t.relkind IN ('r', 'm') AND t.relpages >= 128
ORDER BY t.relpages DESC
LIMIT 100
