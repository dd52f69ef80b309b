-- Replication slots: what they keep from being removed. Sizes in bytes.
SELECT
  s.slot_name::text AS name, s.slot_type AS type, s.active, COALESCE(s.wal_status, '') AS wal_status,
  pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::float8 AS retained_bytes,
  (SELECT setting::float8 * 1048576 FROM pg_settings WHERE name = 'max_wal_size') AS max_wal_bytes,
  (SELECT setting::float8 * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_max_bytes,
  quote_literal(s.slot_name) AS quoted_name
FROM pg_replication_slots s
WHERE NOT s.temporary
ORDER BY retained_bytes DESC NULLS FIRST
