-- Settings that apply to single roles in this database and that are dangerous for whoever has them.
SELECT r.rolname::text AS role, split_part(c.item, '=', 1) AS name, substr(c.item, strpos(c.item, '=') + 1) AS value
FROM pg_db_role_setting s
JOIN pg_roles r ON r.oid = s.setrole
CROSS JOIN LATERAL unnest(s.setconfig) AS c(item)
WHERE (s.setdatabase = 0 OR s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND split_part(c.item, '=', 1) IN (
    'synchronous_commit', 'session_replication_role', 'zero_damaged_pages', 'ignore_checksum_failure', 'row_security',
    'password_encryption', 'log_statement'
  )
ORDER BY 1, 2
