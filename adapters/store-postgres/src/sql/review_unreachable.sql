-- Roles with rights on tables of a schema that they may not enter.
SELECT n.nspname::text AS schema, r.rolname::text AS role, count(DISTINCT c.oid) AS tables
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(c.relacl) e
JOIN pg_catalog.pg_roles r ON r.oid = e.grantee
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND e.grantee <> c.relowner
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'steward') AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE')
GROUP BY 1, 2
ORDER BY 1, 2
LIMIT 200
