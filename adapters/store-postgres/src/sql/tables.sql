-- Tables, partitioned and foreign tables, without the system's, Steward's and those that belong to an extension.
-- $1: size in bytes up to which counting the rows is cheap. $2: how many tables there may be for their files to be looked at.
-- Asking for a file's size opens the relation. With very many tables the pages that the catalog remembers must do, except
-- for tables that the server has never looked at.
WITH pages AS (
  SELECT relid, sum(relpages)::bigint * current_setting('block_size')::bigint AS bytes
  FROM (
    SELECT oid AS relid, relpages FROM pg_class WHERE relkind IN ('r', 'p', 'f')
    UNION ALL
    SELECT i.indrelid, c.relpages FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    UNION ALL
    SELECT c.oid, t.relpages FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
    UNION ALL
    SELECT c.oid, t.relpages
    FROM pg_class c JOIN pg_index i ON i.indrelid = c.reltoastrelid JOIN pg_class t ON t.oid = i.indexrelid
  ) AS parts
  GROUP BY relid
)
SELECT
  c.oid,
  n.nspname AS namespace,
  c.relname AS name,
  c.relkind::text AS kind,
  array_remove(ARRAY[
    CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' END,
    CASE c.relkind WHEN 'f' THEN 'FOREIGN' END,
    CASE WHEN c.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
    CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
    CASE WHEN c.reloptions IS NOT NULL THEN 'WITH (' || array_to_string(c.reloptions, ', ') || ')' END,
    CASE WHEN NOT c.relispartition THEN (
      SELECT 'INHERITS (' || string_agg(format('%I.%I', pn.nspname, p.relname), ', ' ORDER BY h.inhseqno) || ')'
      FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
      WHERE h.inhrelid = c.oid
    ) END
  ], NULL) AS options,
  CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
  CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END AS partition_bound,
  parent.oid AS parent_oid,
  parent_namespace.nspname AS parent_namespace,
  parent.relname AS parent_name,
  description.description AS comment,
  GREATEST(CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint ELSE pg_stat_get_live_tuples(c.oid) END, 0)
    AS rows_expected,
  size.bytes AS size_bytes,
  c.relkind = 'r' AND NOT c.relrowsecurity AND size.bytes <= $1
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS countable,
  c.reltuples < 0 AS never_analyzed,
  quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS quoted_name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits i ON c.relispartition AND i.inhrelid = c.oid
LEFT JOIN pg_class parent ON parent.oid = i.inhparent
LEFT JOIN pg_namespace parent_namespace ON parent_namespace.oid = parent.relnamespace
LEFT JOIN pg_description description
  ON description.classoid = 'pg_class'::regclass AND description.objoid = c.oid AND description.objsubid = 0
LEFT JOIN pages ON pages.relid = c.oid
CROSS JOIN LATERAL (
  SELECT CASE WHEN c.reltuples < 0 OR (SELECT count(*) <= $2 FROM pg_class WHERE relkind = 'r')
    THEN pg_total_relation_size(c.oid) ELSE pages.bytes END AS bytes
) AS size
WHERE c.relkind IN ('r', 'p', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND n.nspname !~ '^pg_temp_'
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  )
