-- Triggers that are switched off; those of foreign keys by the name of the key.
SELECT DISTINCT
  t.full_name AS table_name, format('%I', COALESCE(con.conname, g.tgname)) AS name, g.tgisinternal AS of_foreign_key
FROM pg_trigger g
JOIN {tables} t ON t.oid = g.tgrelid
LEFT JOIN pg_constraint con ON con.oid = g.tgconstraint AND g.tgisinternal
WHERE g.tgenabled = 'D' AND (NOT g.tgisinternal OR con.contype = 'f')
  AND COALESCE((to_jsonb(con) ->> 'conenforced')::boolean, true)
ORDER BY 1, 2
LIMIT 200
