-- Tables that can be vacuumed, with what says whether they need it and which of the logins may.
-- $1: logins. $2: the server knows the right MAINTAIN (17 and later).
WITH settings AS (
  SELECT current_setting('autovacuum_vacuum_threshold')::float8 AS vacuum_base,
         current_setting('autovacuum_vacuum_scale_factor')::float8 AS vacuum_share,
         current_setting('autovacuum_analyze_threshold')::float8 AS analyze_base,
         current_setting('autovacuum_analyze_scale_factor')::float8 AS analyze_share,
         current_setting('vacuum_freeze_table_age')::int8 AS freeze_age
), tables AS (
  SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
         pg_get_userbyid(c.relowner)::text AS owner, c.relowner,
         GREATEST(c.reltuples, 0)::float8 AS rows, age(c.relfrozenxid)::int8 AS frozen_age,
         COALESCE(pg_stat_get_dead_tuples(c.oid), 0) AS dead,
         COALESCE(pg_stat_get_mod_since_analyze(c.oid), 0) AS changed,
         COALESCE((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                   WHERE option_name = 'autovacuum_vacuum_threshold'), s.vacuum_base) AS vacuum_base,
         COALESCE((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                   WHERE option_name = 'autovacuum_vacuum_scale_factor'), s.vacuum_share) AS vacuum_share,
         COALESCE((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                   WHERE option_name = 'autovacuum_analyze_threshold'), s.analyze_base) AS analyze_base,
         COALESCE((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                   WHERE option_name = 'autovacuum_analyze_scale_factor'), s.analyze_share) AS analyze_share,
         s.freeze_age
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN settings s
  WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('information_schema', 'pg_toast', 'steward')
)
SELECT t.schema, t.name, t.kind, t.owner, t.rows, t.dead, t.changed, t.frozen_age,
  t.schema <> 'pg_catalog' AND t.kind <> 'p'
    AND (t.dead > t.vacuum_base + t.vacuum_share * t.rows OR t.frozen_age > t.freeze_age) AS needs_vacuum,
  t.schema <> 'pg_catalog' AND t.kind <> 'p'
    AND t.changed > t.analyze_base + t.analyze_share * t.rows AS needs_analyze,
  ARRAY(
    SELECT r.rolname::text FROM pg_catalog.pg_roles r
    WHERE r.rolname = ANY ($1::text[])
      AND (pg_has_role(r.oid, t.relowner, 'USAGE')
        OR t.schema <> 'pg_catalog' AND pg_has_role(r.oid, (SELECT datdba FROM pg_catalog.pg_database
                                                            WHERE datname = current_database()), 'USAGE')
        OR CASE WHEN $2::bool THEN has_table_privilege(r.oid, t.oid, 'MAINTAIN') END)
  ) AS may
FROM tables t
ORDER BY t.dead DESC, t.schema, t.name
