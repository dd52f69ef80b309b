-- Collations whose rules have changed since they were recorded: the database's own, and those that columns use.
SELECT
  'database' AS kind, d.datname::text AS name, d.datcollversion AS recorded,
  pg_database_collation_actual_version(d.oid) AS actual
FROM pg_database d
WHERE d.datname = current_database() AND d.datcollversion IS NOT NULL
UNION ALL
SELECT 'collation', c.oid::regcollation::text, c.collversion, pg_collation_actual_version(c.oid)
FROM pg_collation c
WHERE c.collversion IS NOT NULL AND c.collprovider <> 'd'
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND a.attrelid >= 16384 AND NOT a.attisdropped)
