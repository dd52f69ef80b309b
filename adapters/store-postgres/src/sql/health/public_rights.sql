-- What everyone may do: make objects in a schema, write or read a table.
SELECT 'schema' AS kind, format('%I', n.nspname) AS name, ARRAY['CREATE'] AS rights
FROM pg_namespace n, aclexplode(n.nspacl) x
WHERE x.grantee = 0 AND x.privilege_type = 'CREATE' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT 'table', t.full_name, array_agg(x.privilege_type::text ORDER BY x.privilege_type)
FROM {tables} t, aclexplode(t.relacl) x
WHERE x.grantee = 0 AND t.relkind IN ('r', 'p', 'v', 'm', 'f')
GROUP BY t.full_name
ORDER BY 1, 2
LIMIT 200
