-- All roles but those that come with the server and have no members.
SELECT r.rolname::text AS name, r.rolcanlogin AS login, r.rolsuper AS superuser, r.rolcreatedb AS create_database,
  r.rolcreaterole AS create_role, r.rolreplication AS replication, r.rolbypassrls AS bypass_row_security,
  r.rolinherit AS inherit, NULLIF(r.rolconnlimit, -1) AS connections_max,
  CASE WHEN isfinite(r.rolvaliduntil)
    THEN to_char(r.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') END AS valid_until,
  COALESCE(r.rolvaliduntil < now(), false) AS expired,
  COALESCE(r.rolconfig, '{}') AS settings,
  r.oid < 16384 AND r.rolname LIKE 'pg\_%' AS predefined,
  r.oid = 10 AS bootstrap,
  (SELECT count(*) FROM pg_catalog.pg_shdepend d
   WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o'
     AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())) AS objects_owned
FROM pg_catalog.pg_roles r
WHERE NOT (r.oid < 16384 AND r.rolname LIKE 'pg\_%')
  OR EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = r.oid AND m.member >= 16384)
ORDER BY 1
