-- Who is a member of what. Before 16 the server has no options `inherit` and `set`, so they are null.
SELECT r.rolname::text AS role, u.rolname::text AS member, m.admin_option AS admin,
  (to_jsonb(m) ->> 'inherit_option')::bool AS inherit, (to_jsonb(m) ->> 'set_option')::bool AS set,
  COALESCE(g.rolname::text, '') AS grantor
FROM pg_catalog.pg_auth_members m
JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
JOIN pg_catalog.pg_roles u ON u.oid = m.member
LEFT JOIN pg_catalog.pg_roles g ON g.oid = m.grantor
WHERE NOT (u.oid < 16384 AND u.rolname LIKE 'pg\_%')
ORDER BY 2, 1, 6
