-- Sessions that wait for a lock of this one.
SELECT count(DISTINCT pid) FROM pg_catalog.pg_locks
WHERE NOT granted AND pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids(pid))
