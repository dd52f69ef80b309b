-- Roles that read every table of an owner in a schema, while they would not see the owner's next table.
SELECT s.nspname::text AS schema, pg_get_userbyid(t.relowner)::text AS owner, r.rolname::text AS role, count(*) AS tables
FROM pg_catalog.pg_class t
JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace
CROSS JOIN pg_catalog.pg_roles r
WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition
  AND s.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND s.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                  AND d.objid = t.oid AND d.deptype = 'e')
  AND NOT r.rolsuper AND r.oid >= 16384 AND NOT pg_has_role(r.oid, t.relowner, 'USAGE')
  AND NOT pg_has_role(r.oid, 'pg_read_all_data', 'USAGE')
GROUP BY s.oid, 1, t.relowner, r.oid, 3
HAVING count(*) >= 2
  AND count(*) = count(*) FILTER (WHERE EXISTS (
    SELECT FROM aclexplode(t.relacl) e WHERE e.grantee = r.oid AND e.privilege_type = 'SELECT'))
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) e
    WHERE d.defaclrole = t.relowner AND d.defaclobjtype = 'r' AND d.defaclnamespace IN (0, s.oid)
      AND e.privilege_type = 'SELECT' AND (e.grantee = 0 OR pg_has_role(r.oid, e.grantee, 'USAGE')))
ORDER BY 1, 2, 3
LIMIT 200
