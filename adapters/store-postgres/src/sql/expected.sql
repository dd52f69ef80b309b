-- Rows that the planner believes to be in each table; NULL where it has never looked.
-- $1, $2: schemas and names of the tables, as many of each.
SELECT w.namespace, w.name, CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS rows
FROM unnest($1::text[], $2::text[]) AS w (namespace, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.namespace
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
