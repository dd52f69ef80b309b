-- Whether pages carry checksums, and how many were found wrong, per database of the server.
SELECT
  current_setting('data_checksums') = 'on' AS enabled,
  COALESCE(d.datname, 'shared objects')::text AS database,
  COALESCE(d.checksum_failures, 0) AS failures,
  extract(epoch FROM now() - d.checksum_last_failure)::float8 AS seconds_ago
FROM pg_stat_database d
ORDER BY failures DESC, d.datname = current_database() DESC NULLS LAST
LIMIT 50
