-- Age of the oldest transaction and multixact id: of each database of the server, and of this one's oldest tables.
SELECT * FROM (
  SELECT
    'database' AS kind, d.datname::text AS name, age(d.datfrozenxid)::bigint AS transactions,
    mxid_age(d.datminmxid)::bigint AS multixacts
  FROM pg_database d
  ORDER BY GREATEST(age(d.datfrozenxid), mxid_age(d.datminmxid)) DESC
  LIMIT 50
) AS databases
UNION ALL
SELECT * FROM (
  SELECT 'table', t.full_name, age(t.relfrozenxid)::bigint, mxid_age(t.relminmxid)::bigint
  FROM {tables} t
  WHERE t.relkind IN ('r', 'm')
  ORDER BY GREATEST(age(t.relfrozenxid), mxid_age(t.relminmxid)) DESC
  LIMIT 10
) AS tables
