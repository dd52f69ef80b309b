-- Rights on objects that are made later, without what their owners have by owning.
SELECT pg_get_userbyid(d.defaclrole)::text AS owner, n.nspname::text AS schema,
  CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
    WHEN 'n' THEN 'schemas' WHEN 'L' THEN 'large_objects' ELSE d.defaclobjtype::text END AS kind,
  CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee)::text END AS role,
  array_agg(e.privilege_type ORDER BY e.privilege_type) AS privileges,
  COALESCE(array_agg(e.privilege_type ORDER BY e.privilege_type) FILTER (WHERE e.is_grantable), '{}') AS grantable
FROM pg_catalog.pg_default_acl d
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace
CROSS JOIN LATERAL aclexplode(d.defaclacl) e
WHERE e.grantee <> d.defaclrole AND n.nspname IS DISTINCT FROM 'steward'
GROUP BY 1, 2, 3, 4
ORDER BY 4, 1, 2, 3
