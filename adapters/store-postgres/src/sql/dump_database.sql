-- The database itself: what it is made with, and the statements that belong to it, cut where its name stands.
WITH d AS (
  SELECT * FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
), j AS (
  -- Columns that came with 16 and 17.
  SELECT to_jsonb(d) AS j FROM d
)
SELECT d.datname::text AS name,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
       d.datcollate AS lc_collate, d.datctype AS lc_ctype,
       j.j->>'datlocprovider' AS provider,
       coalesce(j.j->>'datlocale', j.j->>'daticulocale') AS locale, j.j->>'daticurules' AS rules,
       pg_catalog.pg_get_userbyid(d.datdba)::text AS owner,
       d.datconnlimit AS connections_max,
       pg_catalog.shobj_description(d.oid, 'pg_database') AS comment,
       d.datacl IS NOT NULL AS has_rights,
       ARRAY(
         SELECT a.privilege_type || '|' || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
                || '|' || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
         FROM pg_catalog.aclexplode(d.datacl) AS a ORDER BY 1
       ) AS rights,
       -- The role, or nothing for all, and the setting as it is kept.
       ARRAY(
         SELECT pg_catalog.json_build_array(CASE s.setrole WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(s.setrole)::text END, c.setting)::text
         FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS c(setting, place)
         WHERE s.setdatabase = d.oid ORDER BY s.setrole, c.place
       ) AS settings,
       (SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid = 10) AS bootstrap,
       ARRAY(SELECT t.spcname::text FROM pg_catalog.pg_tablespace t WHERE t.spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1) AS tablespaces,
       ARRAY(SELECT pg_catalog.format('extension %s %s', e.extname, e.extversion) FROM pg_catalog.pg_extension e
             WHERE e.extname <> 'plpgsql' ORDER BY 1) AS extensions,
       ARRAY(
         SELECT DISTINCT pg_catalog.format('role %s', r.rolname) FROM pg_catalog.pg_shdepend s
         JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
         WHERE s.dbid = d.oid AND s.refclassid = 'pg_catalog.pg_authid'::regclass
           AND r.oid >= 16384 ORDER BY 1
       ) AS roles
FROM d, j
