-- Collations that columns use and whose rules have changed since they were recorded.
SELECT 'collation' AS kind, c.oid::regcollation::text AS name, c.collversion AS recorded,
  pg_collation_actual_version(c.oid) AS actual
FROM pg_collation c
WHERE c.collversion IS NOT NULL AND c.collprovider <> 'd'
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid AND a.attrelid >= 16384 AND NOT a.attisdropped)
