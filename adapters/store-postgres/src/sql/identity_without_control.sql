-- The same for logins that may not see the cluster's identifier; a restart changes it.
SELECT format('%s/%s', extract(epoch FROM pg_catalog.pg_postmaster_start_time())::bigint, d.oid)
FROM pg_catalog.pg_database AS d
WHERE d.datname = pg_catalog.current_database()
