-- The table, view or materialized view that a name means; at most one row.
-- $1: the name, with or without its schema.
SELECT
  c.oid,
  n.nspname::text AS namespace,
  c.relname::text AS name,
  c.relkind IN ('r', 'm', 'p') AS can_sample,
  GREATEST(
    CASE WHEN c.relkind = 'p'
      THEN (SELECT sum(GREATEST(l.reltuples, 0)) FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf)
      ELSE c.reltuples
    END, 0)::bigint AS rows_estimated,
  current_setting('server_encoding') = 'UTF8' AS is_utf8,
  current_setting('server_encoding') AS encoding,
  hashtextextended('Steward', 0) AS hash_sample
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p', 'v', 'f') AND n.nspname <> 'steward'
  AND (n.nspname || '.' || c.relname = $1 OR c.relname = $1 AND (n.nspname = 'public' OR pg_table_is_visible(c.oid)))
ORDER BY n.nspname || '.' || c.relname = $1 DESC, n.nspname = 'public' DESC, n.nspname
LIMIT 1
