-- What keeps vacuum from removing dead rows, the oldest first. Age in transactions.
SELECT * FROM (
  SELECT 'session' AS kind, format('pid %s (%s)', a.pid, a.usename) AS holder, age(a.backend_xmin)::bigint AS age
  FROM pg_stat_activity a
  WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid() AND a.datname = current_database()
  UNION ALL
  SELECT 'slot', s.slot_name::text, GREATEST(age(s.xmin), age(s.catalog_xmin))::bigint
  FROM pg_replication_slots s WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
  UNION ALL
  SELECT 'prepared transaction', p.gid, age(p.transaction)::bigint
  FROM pg_prepared_xacts p WHERE p.database = current_database()
  UNION ALL
  SELECT 'standby', r.application_name, age(r.backend_xmin)::bigint
  FROM pg_stat_replication r WHERE r.backend_xmin IS NOT NULL
) AS holders
ORDER BY age DESC NULLS LAST
LIMIT 20
