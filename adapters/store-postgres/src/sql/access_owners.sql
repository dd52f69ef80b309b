-- How many objects of each kind belong to whom, with the first few names.
WITH spaces AS (
  SELECT oid, nspname, nspowner FROM pg_catalog.pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND nspname !~ '^pg_(toast_)?temp_'
), objects AS (
  SELECT 'database' AS kind, datname::text AS object, datdba AS owner
  FROM pg_catalog.pg_database WHERE datname = current_database()
  UNION ALL
  SELECT 'schema', nspname, nspowner FROM spaces
  UNION ALL
  SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, s.nspname || '.' || c.relname, c.relowner
  FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  UNION ALL
  SELECT 'function', format('%s.%s(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner
  FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
  WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
)
SELECT pg_get_userbyid(owner)::text AS role, kind, count(*) AS objects,
  (array_agg(object ORDER BY object))[1:3] AS examples
FROM objects GROUP BY 1, 2 ORDER BY 1, 2
