-- What the role will have on objects of a kind that owners make later in schemas; one row per owner and schema that
-- either has a default for the role or owns such an object there now.
-- $1: kind: r, S or f. $2: schemas. $3: the role's oid; 0 for everyone. $4: one owner; null for all.
WITH spaces AS (
  SELECT oid, nspname, nspowner FROM pg_catalog.pg_namespace WHERE nspname = ANY ($2::text[])
), makers AS (
  SELECT c.relnamespace AS space, c.relowner AS owner FROM pg_catalog.pg_class c
  WHERE $1::text = 'r' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') OR $1::text = 'S' AND c.relkind = 'S'
  UNION SELECT p.pronamespace, p.proowner FROM pg_catalog.pg_proc p WHERE $1::text = 'f'
  UNION SELECT d.defaclnamespace, d.defaclrole FROM pg_catalog.pg_default_acl d WHERE d.defaclobjtype::text = $1
  UNION SELECT s.oid, r.oid FROM spaces s JOIN pg_catalog.pg_roles r ON r.rolname = $4::text
)
SELECT s.nspname::text AS schema, pg_get_userbyid(m.owner)::text AS owner,
  ARRAY(SELECT e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END || '/' || pg_get_userbyid(e.grantor)
        FROM pg_catalog.pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) e
        WHERE d.defaclrole = m.owner AND d.defaclnamespace = s.oid AND d.defaclobjtype::text = $1
          AND e.grantee = $3::oid ORDER BY 1) AS rights
FROM spaces s JOIN makers m ON m.space = s.oid
WHERE $4::text IS NULL OR pg_get_userbyid(m.owner) = $4::text
ORDER BY 1, 2
