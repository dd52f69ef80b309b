-- What the source is, asked at the beginning and at the end: a restart, a failover or a promotion changes it.
SELECT pg_catalog.pg_is_in_recovery() AS standby,
       extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text AS started,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END::text AS position,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
       d.oid AS database_oid,
       to_char(pg_catalog.transaction_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS server_at
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
