-- Foreign keys whose column has another type than the column it refers to.
SELECT
  t.full_name AS table_name, format('%I', con.conname) AS name, format('%I', a.attname) AS column_name,
  format_type(a.atttypid, a.atttypmod) AS type, con.confrelid::regclass::text AS parent,
  format_type(p.atttypid, p.atttypmod) AS parent_type, a.attlen > 0 AND a.attlen < p.attlen AS narrower
FROM pg_constraint con
JOIN {tables} t ON t.oid = con.conrelid
CROSS JOIN LATERAL unnest(con.conkey, con.confkey) AS k(attnum, parent_attnum)
JOIN pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.attnum
JOIN pg_attribute p ON p.attrelid = con.confrelid AND p.attnum = k.parent_attnum
WHERE con.contype = 'f' AND con.conparentid = 0 AND a.atttypid <> p.atttypid
ORDER BY 1, 2
LIMIT 200
