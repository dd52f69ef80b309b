-- Columns of tables with what the role has on each.
-- $1: tables as `schema.table`. $2: columns. $3: the role's oid; 0 for everyone.
SELECT n.nspname || '.' || c.relname AS table_name, a.attname::text AS name,
  ARRAY(SELECT e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END || '/' || pg_get_userbyid(e.grantor)
        FROM aclexplode(a.attacl) e WHERE e.grantee = $3::oid ORDER BY 1) AS rights,
  ARRAY(SELECT e.privilege_type || '/' || CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END
        FROM aclexplode(a.attacl) e WHERE e.grantor = $3::oid AND e.grantee <> $3::oid AND c.relowner <> $3::oid
        ORDER BY 1) AS passed_on
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY ($1::text[]) AND a.attname = ANY ($2::text[])
  AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1, a.attnum
