-- Tables that a crash empties and that no copy of the server has.
SELECT t.full_name AS name, GREATEST(t.reltuples, 0)::bigint AS rows
FROM {tables} t WHERE t.relpersistence = 'u' AND t.relkind = 'r'
ORDER BY rows DESC
LIMIT 100
