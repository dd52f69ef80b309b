-- What a physical backup has to know of the server before it begins. NULL where the login may not see it.
SELECT (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS may_stream,
       pg_catalog.current_setting('wal_level') AS wal_level,
       pg_catalog.current_setting('max_wal_senders')::int AS senders_max,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS senders,
       pg_catalog.current_setting('max_replication_slots')::int AS slots_max,
       (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS slots,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) AS wal_file_bytes,
       pg_catalog.current_setting('data_checksums') = 'on' AS page_checksums,
       pg_catalog.current_setting('full_page_writes') = 'on' AS full_page_writes,
       pg_catalog.pg_is_in_recovery() AS standby,
       (SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid <> 10, oid LIMIT 1) AS superuser,
       pg_catalog.current_database()::text AS database,
       ARRAY(SELECT s.name || '=' || s.setting FROM pg_catalog.pg_settings AS s
             WHERE s.name IN ('max_connections', 'max_prepared_transactions', 'max_locks_per_transaction', 'max_worker_processes')
             ORDER BY s.name) AS settings,
       ARRAY(SELECT t.oid::text FROM pg_catalog.pg_tablespace AS t
             WHERE t.spcname NOT IN ('pg_default', 'pg_global') ORDER BY t.oid) AS tablespaces,
       ARRAY(SELECT s.setting FROM pg_catalog.pg_settings AS s, pg_catalog.pg_settings AS d
             WHERE s.name IN ('config_file', 'hba_file', 'ident_file') AND d.name = 'data_directory'
               AND NOT pg_catalog.starts_with(s.setting, d.setting || '/') ORDER BY s.name) AS outside,
       ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE NOT temporary ORDER BY slot_name) AS slot_names
