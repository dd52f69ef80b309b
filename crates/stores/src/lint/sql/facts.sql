-- What the linter needs beside the schema, as rows of: fact, namespace, name, detail, text, number.
-- $1: names of the functions that the files call, as a JSON array.
WITH mine AS (
  SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n
  WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND n.nspname !~ '^pg_(toast_)?temp_'
)
SELECT 'setting' AS fact, '' AS namespace, s.name, '' AS detail, s.setting AS text, 0::float8 AS number
FROM pg_catalog.pg_settings s WHERE s.name IN ('server_version_num', 'TimeZone')
UNION ALL
-- Relations that are no tables, and the rows of tables: the planner's record, or by the size of a file that it never looked at.
SELECT 'relation', m.nspname, c.relname, c.relkind::text,
  CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'unpopulated' ELSE c.relpersistence::text END,
  CASE WHEN c.relkind NOT IN ('r', 'm') THEN 0 WHEN c.reltuples >= 0 THEN c.reltuples
    ELSE pg_catalog.pg_relation_size(c.oid) / 40.0 END
FROM pg_catalog.pg_class c JOIN mine m ON m.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'i', 'I')
UNION ALL
SELECT 'clustered', m.nspname, c.relname, '', '', 0
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN mine m ON m.oid = c.relnamespace
WHERE i.indisclustered
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'domain' WHEN 'e' THEN 'enum' ELSE 'type' END, m.nspname, t.typname,
  CASE t.typtype
    WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod)
    WHEN 'e' THEN (SELECT string_agg(e.enumlabel, E'\x1f') FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
    ELSE ''
  END,
  CASE WHEN t.typtype = 'd' AND (t.typnotnull OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid))
    THEN 'constrained' ELSE '' END,
  0
FROM pg_catalog.pg_type t JOIN mine m ON m.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE t.typtype IN ('d', 'e') OR t.typtype = 'c' AND c.relkind = 'c'
UNION ALL
SELECT 'function', '', p.proname, '', max(p.provolatile::text), count(*)
FROM pg_catalog.pg_proc p
WHERE p.proname IN (SELECT json_array_elements_text($1::text::json))
GROUP BY p.proname
UNION ALL
SELECT 'own_function', m.nspname, p.proname, '', '', count(*)
FROM pg_catalog.pg_proc p JOIN mine m ON m.oid = p.pronamespace
GROUP BY m.nspname, p.proname
UNION ALL
-- Columns that views and rules read, by view.
SELECT DISTINCT 'viewed', m.nspname, c.relname, a.attname, format('%s.%s', vn.nspname, v.relname), 0
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
JOIN pg_catalog.pg_namespace vn ON vn.oid = v.relnamespace
JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass AND c.oid <> v.oid
JOIN mine m ON m.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
UNION ALL
-- Share of NULLs by the planner's sample.
SELECT 'nulls', s.schemaname, s.tablename, s.attname, '', s.null_frac
FROM pg_catalog.pg_stats s JOIN mine m ON m.nspname = s.schemaname
WHERE s.null_frac > 0
UNION ALL
-- NOT NULL that was not checked (PostgreSQL 18), and constraints by name with their kind.
SELECT 'constraint', m.nspname, c.relname, k.conname,
  k.contype::text || CASE WHEN k.convalidated THEN '' ELSE ' unchecked' END
    || CASE WHEN to_jsonb(k) ->> 'conenforced' = 'false' THEN ' unenforced' ELSE '' END,
  COALESCE(k.conkey[1], 0)
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN mine m ON m.oid = c.relnamespace
UNION ALL
-- Transactions that have been open for more than ten seconds and hold a lock on a table.
SELECT DISTINCT 'busy', m.nspname, c.relname, COALESCE(a.application_name, ''), COALESCE(a.state, ''),
  extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN mine m ON m.oid = c.relnamespace
WHERE l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.granted AND a.pid <> pg_backend_pid() AND a.xact_start < clock_timestamp() - interval '10 seconds'
