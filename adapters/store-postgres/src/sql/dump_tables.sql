-- Tables whose rows belong to this database: ordinary ones, leaves of partitioned ones, and those in which extensions keep
-- what users configure. Foreign tables are listed to be named.
-- $1: with sizes, for which the server waits for a lock that others may hold.
-- `rewritten`: since the snapshot, its rows were put into a new file, where the snapshot would see none of them.
SELECT c.oid, c.relkind = 'f' AS is_foreign, c.relpersistence = 'u' AS is_unlogged,
       pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, n.nspname::text AS namespace,
       n.nspname || '.' || c.relname AS plain_name,
       coalesce(m.amname = 'heap', false) AS has_pages,
       CASE WHEN $1 AND c.relkind = 'r' THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END / pg_catalog.current_setting('block_size')::bigint AS pages,
       CASE WHEN $1 AND c.relkind = 'r' THEN pg_catalog.pg_total_relation_size(c.oid) ELSE 0 END AS bytes,
       c.relfilenode <> 0 AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid) AS rewritten,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS readable,
       pg_catalog.row_security_active(c.oid) AS filtered,
       x.condition,
       ARRAY(
         SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
         ORDER BY a.attnum
       ) AS columns,
       ARRAY(
         WITH RECURSIVE up(parent) AS (
           SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid
           UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN up ON i.inhrelid = up.parent
         )
         SELECT pg_catalog.format('%I.%I', pn.nspname, p.relname)
         FROM up JOIN pg_catalog.pg_class p ON p.oid = up.parent
         JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace ORDER BY 1
       ) AS parents
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
LEFT JOIN LATERAL (
  SELECT u.config AS oid, pg_catalog.btrim(u.condition) AS condition
  FROM pg_catalog.pg_extension e, ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition)) AS u(config, condition)
  WHERE u.config = c.oid
) AS x ON true
WHERE c.relkind IN ('r', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(toast_)?temp_'
  AND (x.oid IS NOT NULL OR NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  ))
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
