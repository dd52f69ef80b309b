-- Transactions of this database that were prepared and neither committed nor rolled back, the oldest first.
SELECT
  p.gid, p.owner::text AS owner, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS seconds,
  quote_literal(p.gid) AS quoted_gid
FROM pg_prepared_xacts p
WHERE p.database = current_database()
ORDER BY p.prepared
LIMIT 100
