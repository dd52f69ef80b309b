-- B-tree indexes and tables that can be checked, largest last.
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind = 'i' AS is_index,
       coalesce(i.indisunique, false) AS is_unique, n.nspname::text AS namespace, c.relname::text AS relation
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = c.relam
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE n.nspname NOT IN ('information_schema', 'pg_toast') AND n.nspname !~ '^pg_temp_'
  AND c.relpersistence <> 't'
  AND (c.relkind = 'i' AND m.amname = 'btree' AND i.indisvalid AND i.indisready
    OR c.relkind IN ('r', 'm') AND m.amname = 'heap')
ORDER BY c.relpages, c.oid
