-- Tables with policies that are not applied, because row-level security is off.
SELECT t.full_name AS name, count(*)::int AS policies
FROM {tables} t JOIN pg_policy p ON p.polrelid = t.oid
WHERE NOT t.relrowsecurity
GROUP BY 1
ORDER BY 1
