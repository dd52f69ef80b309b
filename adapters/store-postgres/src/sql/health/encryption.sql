-- Whether the server encrypts connections, and this one; one row. The oldest version is null for whom it is hidden from.
SELECT
  current_setting('ssl') = 'on' AS enabled,
  (SELECT s.setting FROM pg_settings s WHERE s.name = 'ssl_min_protocol_version') AS oldest_version,
  current_setting('listen_addresses') AS listens_on,
  COALESCE((SELECT t.ssl FROM pg_stat_ssl t WHERE t.pid = pg_backend_pid()), false) AS this_session,
  (SELECT t.version FROM pg_stat_ssl t WHERE t.pid = pg_backend_pid()) AS this_version
