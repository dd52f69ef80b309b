-- Tables, partitioned and foreign tables, without the system's, Steward's and those that belong to an extension.
-- $1: size in bytes up to which counting the rows is cheap. $2: how many tables there may be for their files to be looked at.
-- Asking for a file's size opens the relation. With very many tables the pages that the catalog remembers must do, those of
-- indexes to be added by whoever asks; except for tables that the server has never looked at.
SELECT
  c.oid,
  n.nspname AS namespace,
  c.relname AS name,
  CASE
    WHEN c.relpersistence = 'u' OR c.relkind = 'f' OR c.relrowsecurity OR c.relforcerowsecurity
      OR c.reloptions IS NOT NULL OR inherits.parents IS NOT NULL
    THEN array_remove(ARRAY[
      CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' END,
      CASE c.relkind WHEN 'f' THEN 'FOREIGN' END,
      CASE WHEN c.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
      CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
      CASE WHEN c.reloptions IS NOT NULL THEN 'WITH (' || array_to_string(c.reloptions, ', ') || ')' END,
      CASE WHEN NOT c.relispartition THEN inherits.parents END
    ], NULL)
  END AS options,
  CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
  CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END AS partition_bound,
  -- A partition has one parent.
  CASE WHEN c.relispartition THEN inherits.parent_oid END AS parent_oid,
  description.description AS comment,
  GREATEST(CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint ELSE pg_stat_get_live_tuples(c.oid) END, 0)
    AS rows_expected,
  size.measured,
  size.bytes AS size_bytes,
  c.relkind = 'r' AND NOT c.relrowsecurity AND size.measured AND size.bytes <= $1
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS countable,
  quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS quoted_name,
  c.relchecks > 0 AS checked
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
LEFT JOIN (
  SELECT i.indrelid, sum(part.relpages) AS pages FROM pg_index i JOIN pg_class part ON part.oid = i.indexrelid GROUP BY i.indrelid
) AS toast_indexes ON toast_indexes.indrelid = c.reltoastrelid
LEFT JOIN (
  SELECT h.inhrelid, min(h.inhparent) AS parent_oid,
    'INHERITS (' || string_agg(format('%I.%I', pn.nspname, p.relname), ', ' ORDER BY h.inhseqno) || ')' AS parents
  FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
  GROUP BY h.inhrelid
) AS inherits ON inherits.inhrelid = c.oid
LEFT JOIN pg_description description
  ON description.classoid = 'pg_class'::regclass AND description.objoid = c.oid AND description.objsubid = 0
CROSS JOIN LATERAL (
  SELECT measured, CASE WHEN measured THEN pg_total_relation_size(c.oid) ELSE current_setting('block_size')::bigint * (
    c.relpages + COALESCE(toast.relpages, 0) + COALESCE(toast_indexes.pages, 0)
  ) END AS bytes
  -- Worked out once for each table.
  FROM (SELECT c.reltuples < 0 OR (SELECT count(*) <= $2 FROM pg_class WHERE relkind = 'r' AND oid >= 16384) AS measured OFFSET 0) AS m
) AS size
WHERE c.relkind IN ('r', 'p', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND n.nspname !~ '^pg_temp_'
  AND c.oid NOT IN (SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e')
