-- What the judges must know beside their rows; one row.
SELECT
  current_setting('server_version_num')::int AS version_num,
  session_user::text AS user,
  r.rolsuper AS superuser,
  pg_is_in_recovery() AS in_recovery,
  current_database()::text AS database,
  pg_database_size(current_database()) AS database_bytes,
  (
    SELECT extract(epoch FROM now() - d.stats_reset)::bigint FROM pg_stat_database d
    WHERE d.datname = current_database()
  ) AS statistics_seconds,
  ARRAY(SELECT m.rolname::text FROM pg_roles m WHERE m.rolname ~ '^pg_' AND pg_has_role(m.oid, 'USAGE')) AS member_of,
  (
    SELECT COALESCE(json_object_agg(e.extname, n.nspname), '{}')
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
  ) AS extensions
FROM pg_roles r WHERE r.rolname = session_user
