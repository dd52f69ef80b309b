-- Roles that may log in and connect to this database, with what they may do beyond their grants.
SELECT
  r.rolname::text AS name, format('%I', r.rolname) AS quoted_name, r.rolsuper AND r.oid <> 10 AS extra_superuser,
  r.rolcreaterole AND NOT r.rolsuper AS creates_roles, r.rolbypassrls AND NOT r.rolsuper AS bypasses_row_security,
  r.rolreplication AND NOT r.rolsuper AS replicates, r.rolvaliduntil < now() AS expired,
  ARRAY(
    SELECT m.rolname::text FROM pg_roles m
    WHERE m.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
      AND NOT r.rolsuper AND pg_has_role(r.oid, m.oid, 'MEMBER')
    ORDER BY 1
  ) AS reaches,
  EXISTS (SELECT FROM pg_class c WHERE c.relrowsecurity AND c.oid >= 16384) AS row_security_used
FROM pg_roles r
WHERE r.rolcanlogin AND has_database_privilege(r.oid, current_database(), 'CONNECT')
  AND (
    r.rolsuper AND r.oid <> 10 OR r.rolcreaterole OR r.rolbypassrls OR r.rolreplication OR r.rolvaliduntil < now()
    OR EXISTS (
      SELECT FROM pg_roles m
      WHERE m.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
        AND NOT r.rolsuper AND pg_has_role(r.oid, m.oid, 'MEMBER')
    )
  )
ORDER BY 1
LIMIT 500
