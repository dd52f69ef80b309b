-- How the passwords of logins are kept; never the passwords.
SELECT
  a.rolname::text AS name,
  CASE WHEN a.rolpassword LIKE 'md5%' THEN 'md5' WHEN a.rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram-sha-256' ELSE 'none' END
    AS kept_as
FROM pg_authid a
WHERE a.rolcanlogin AND has_database_privilege(a.oid, current_database(), 'CONNECT')
ORDER BY 2, 1
LIMIT 500
