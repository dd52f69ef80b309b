-- How far the server's log is, what it keeps for the slot $1, and how far who is on the slot has it on disk.
SELECT to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS server_at,
       CASE WHEN pg_catalog.pg_is_in_recovery()
            THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())
            ELSE pg_catalog.pg_current_wal_flush_lsn() END::text AS written,
       s.slot_name IS NOT NULL AS there, s.active, s.restart_lsn::text AS kept, s.wal_status = 'lost' AS lost,
       r.flush_lsn::text AS flushed, (SELECT c.redo_lsn FROM pg_catalog.pg_control_checkpoint() AS c)::text AS redo,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) AS file_bytes,
       pg_catalog.current_setting('max_slot_wal_keep_size', true) AS kept_max,
       pg_catalog.pg_is_in_recovery() AS standby
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_replication_slots AS s ON s.slot_name = $1::text::name
     LEFT JOIN pg_catalog.pg_stat_replication AS r ON r.pid = s.active_pid
