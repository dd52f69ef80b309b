-- How a copy follows its source. Host and status are null where our login may not see them.
SELECT r.sender_host || ':' || r.sender_port AS primary,
  pg_catalog.pg_wal_lsn_diff(l.received, l.applied)::int8 AS lag_bytes,
  (CASE WHEN l.received = l.applied AND r.pid IS NOT NULL THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) * 1000 END)::float8 AS lag_ms,
  CASE WHEN r.pid IS NULL THEN false ELSE r.status = 'streaming' END AS streaming
FROM (SELECT pg_catalog.pg_last_wal_receive_lsn() AS received, pg_catalog.pg_last_wal_replay_lsn() AS applied) l
LEFT JOIN pg_catalog.pg_stat_wal_receiver r ON true
