-- Size of the directory of the write-ahead log, and what it should keep to; one row.
SELECT
  sum(w.size)::bigint AS bytes, count(*)::bigint AS files,
  (SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_wal_size') AS max_wal_bytes,
  (SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'wal_keep_size') AS keep_bytes
FROM pg_ls_waldir() w
