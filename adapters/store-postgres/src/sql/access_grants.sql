-- Rights on objects of this database, without what owners have by owning and without members of extensions.
-- $1: most rows.
WITH spaces AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND nspname !~ '^pg_(toast_)?temp_'
), objects AS (
  SELECT 'database' AS kind, datname::text AS object, datdba AS owner, COALESCE(datacl, acldefault('d', datdba)) AS acl
  FROM pg_catalog.pg_database WHERE datname = current_database()
  UNION ALL
  SELECT 'schema', nspname, nspowner, COALESCE(nspacl, acldefault('n', nspowner)) FROM spaces
  UNION ALL
  SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, s.nspname || '.' || c.relname, c.relowner, c.relacl
  FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relacl IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  UNION ALL
  SELECT 'column', s.nspname || '.' || c.relname || '.' || a.attname, c.relowner, a.attacl
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN spaces s ON s.oid = c.relnamespace
  WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
  UNION ALL
  SELECT 'function', format('%s.%s(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner,
         COALESCE(p.proacl, acldefault('f', p.proowner))
  FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
  WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
)
SELECT o.kind, o.object, pg_get_userbyid(o.owner)::text AS owner,
  CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee)::text END AS role,
  pg_get_userbyid(e.grantor)::text AS grantor,
  array_agg(e.privilege_type ORDER BY e.privilege_type) AS privileges,
  COALESCE(array_agg(e.privilege_type ORDER BY e.privilege_type) FILTER (WHERE e.is_grantable), '{}') AS grantable
FROM objects o CROSS JOIN LATERAL aclexplode(o.acl) e
WHERE e.grantee <> o.owner
GROUP BY 1, 2, 3, 4, 5
ORDER BY 4, 1, 2, 5
LIMIT $1
