-- Who we are and what we may, once per connection; one row.
-- The first column asks the server to look every second whether we are still there, where it can (14 and later):
-- a statement whose client died must not go on. Where our settings did not arrive the session is not ours alone: then
-- nothing is left in it.
SELECT
  (SELECT set_config(s.name, '1000', current_setting('IntervalStyle') <> 'iso_8601'
                                     AND current_setting('default_transaction_read_only') <> 'on') FROM pg_settings s WHERE s.name = 'client_connection_check_interval'),
  session_user::text AS user,
  current_setting('server_version_num')::int AS version_num,
  r.rolsuper AS superuser,
  EXISTS (
    SELECT FROM pg_database d
    WHERE d.datname = current_database() AND (d.datdba = r.oid OR NOT r.rolsuper AND pg_has_role(d.datdba, 'MEMBER'))
  ) OR EXISTS (
    SELECT FROM (
      SELECT DISTINCT c.relowner FROM pg_class c WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v', 'S') AND c.oid >= 16384
    ) AS owners
    WHERE owners.relowner = r.oid OR NOT r.rolsuper AND pg_has_role(owners.relowner, 'MEMBER')
  ) AS owner,
  r.rolsuper OR EXISTS (
    -- One for all whose rights are alike: to look at thousands of tables, for every connection, shows.
    SELECT FROM (
      SELECT min(c.oid) AS oid FROM pg_class c
      WHERE c.relkind IN ('r', 'p', 'f', 'v') AND c.oid >= 16384
      GROUP BY c.relowner, c.relacl
    ) AS alike
    WHERE has_table_privilege(alike.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
  ) AS can_write,
  -- Predefined roles that reach beyond the database: files and programs of the server's machine, other sessions.
  array_to_string(ARRAY(
    SELECT m.rolname::text FROM pg_roles m
    WHERE m.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files',
                        'pg_signal_backend', 'pg_maintain', 'pg_write_all_data', 'pg_create_subscription')
      AND NOT r.rolsuper AND pg_has_role(m.oid, 'MEMBER')
    ORDER BY 1
  ), ' ') AS reaching_roles,
  pg_is_in_recovery() AS standby,
  current_setting('IntervalStyle') = 'iso_8601' OR current_setting('default_transaction_read_only') = 'on'
    AS settings_hold,
  COALESCE((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false) AS encrypted
FROM pg_roles r WHERE r.rolname = session_user
