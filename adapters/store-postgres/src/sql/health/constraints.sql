-- Constraints that the server does not vouch for: never validated, or not enforced (PostgreSQL 18).
SELECT
  t.full_name AS table_name, format('%I', con.conname) AS name, con.contype::text AS type,
  COALESCE((to_jsonb(con) ->> 'conenforced')::boolean, true) AS enforced
FROM pg_constraint con
JOIN {tables} t ON t.oid = con.conrelid
WHERE con.contype IN ('c', 'f', 'n') AND con.conparentid = 0
  AND (NOT con.convalidated OR NOT COALESCE((to_jsonb(con) ->> 'conenforced')::boolean, true))
ORDER BY 1, 2
LIMIT 200
