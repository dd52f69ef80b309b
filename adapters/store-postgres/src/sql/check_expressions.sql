-- Conditions of checks that name columns. For each the server opens the table, which costs about 0.05 ms a table.
-- $1: oids of the tables.
SELECT c.oid, pg_get_expr(c.conbin, c.conrelid)
FROM pg_constraint c
WHERE c.conrelid = ANY ($1) AND c.contype = 'c' AND c.conkey IS NOT NULL
