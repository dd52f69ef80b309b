-- Indexes with their tables: those of one name, or all of one table; leaves for a partitioned one.
-- $1: index, with or without its schema; null for a table's. $2: table, with or without its schema; null for an index.
-- $3: logins. $4: the server knows the right MAINTAIN (17 and later).
WITH asked AS (
  SELECT c.oid
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid
  LEFT JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
  WHERE c.relkind IN ('i', 'I') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward')
    AND (n.nspname || '.' || c.relname = $1 OR c.relname = $1
      OR n.nspname || '.' || t.relname = $2 OR t.relname = $2)
), leaves AS (
  SELECT DISTINCT p.relid AS oid
  FROM asked a CROSS JOIN LATERAL (
    SELECT relid FROM pg_partition_tree(a.oid) WHERE isleaf
    UNION SELECT a.oid FROM pg_catalog.pg_class c WHERE c.oid = a.oid AND c.relkind = 'i') p
)
SELECT n.nspname::text AS schema, c.relname::text AS name, t.relname::text AS table_name,
  pg_get_userbyid(t.relowner)::text AS owner, x.indisvalid AND x.indisready AS valid,
  x.indisexclusion AS is_exclusion, c.relfilenode::int8 AS file, pg_relation_size(c.oid) AS size_bytes,
  x.indisvalid IS FALSE AND c.relname ~ '_cc(new|old)[0-9]*$' AS is_left_over,
  ARRAY(
    SELECT r.rolname::text FROM pg_catalog.pg_roles r
    WHERE r.rolname = ANY ($3::text[])
      AND (pg_has_role(r.oid, t.relowner, 'USAGE')
        OR CASE WHEN $4::bool THEN has_table_privilege(r.oid, t.oid, 'MAINTAIN') END)
  ) AS may,
  ARRAY(
    SELECT l.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class l ON l.oid = i.indexrelid
    WHERE i.indrelid = t.oid AND NOT i.indisvalid AND l.oid <> c.oid
      AND l.relname ~ '_cc(new|old)[0-9]*$' AND i.indkey = x.indkey AND i.indclass = x.indclass
      AND i.indisunique = x.indisunique
    ORDER BY 1
  ) AS left_over
FROM leaves f
JOIN pg_catalog.pg_class c ON c.oid = f.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid
JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
ORDER BY 1, 2
