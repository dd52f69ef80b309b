-- Functions that run with their owner's rights and look names up wherever the caller says.
SELECT
  p.oid::regprocedure::text AS name, r.rolname::text AS owner, r.rolsuper AS owner_is_superuser,
  has_function_privilege('public', p.oid, 'EXECUTE') AS open_to_all
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_roles r ON r.oid = p.proowner
WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'steward') AND n.nspname !~ '^pg_temp_'
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c(item) WHERE c.item LIKE 'search_path=%')
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  )
ORDER BY 1
LIMIT 200
