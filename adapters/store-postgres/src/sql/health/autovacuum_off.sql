-- Tables for which autovacuum is switched off.
SELECT t.full_name AS name, GREATEST(t.reltuples, 0)::float8 AS known_rows
FROM {tables} t, pg_options_to_table(t.reloptions) o
WHERE t.relkind IN ('r', 'm') AND o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean
ORDER BY 2 DESC
