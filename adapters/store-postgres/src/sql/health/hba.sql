-- The rules of pg_hba.conf that apply to this database: who is let in from where and how.
SELECT
  h.line_number AS line, COALESCE(h.type, '') AS type, h.user_name AS users, h.address, COALESCE(h.auth_method, '') AS method,
  h.error
FROM pg_hba_file_rules h
WHERE h.error IS NOT NULL
  OR h.database && ARRAY['all', 'sameuser', 'samerole', current_database()::text]
ORDER BY h.line_number
