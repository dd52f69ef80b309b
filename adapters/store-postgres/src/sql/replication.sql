-- How far each replica is behind. A login without `pg_monitor` sees that there are some, and nothing else of them.
SELECT coalesce(nullif(application_name, ''), 'pid ' || pid) AS replica,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn)::bigint AS bytes,
       (extract(epoch FROM replay_lag) * 1000)::bigint AS ms
FROM pg_catalog.pg_stat_replication
WHERE state IS DISTINCT FROM 'backup'
ORDER BY 1
