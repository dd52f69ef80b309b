-- The objects that a change of rights is about, with what the role has on each.
-- $1: kind: d database, n schema, r table, S sequence, f function. $2: names; schemas when $3 is true. $3: all of these
-- schemas. $4: the role's oid; 0 for everyone.
WITH spaces AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND nspname !~ '^pg_(toast_)?temp_'
), objects AS (
  SELECT 'd' AS kind, oid, NULL::text AS schema, datname::text AS name, datname::text AS typed, format('%I', datname) AS sql_name,
         datdba AS owner, COALESCE(datacl, acldefault('d', datdba)) AS acl, false AS extension
  FROM pg_catalog.pg_database WHERE $1::text = 'd' AND datname = current_database()
  UNION ALL
  SELECT 'n', oid, nspname, nspname, nspname, format('%I', nspname), nspowner, COALESCE(nspacl, acldefault('n', nspowner)), false
  FROM spaces WHERE $1::text = 'n' AND nspname = ANY ($2::text[])
  UNION ALL
  SELECT CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END, c.oid, s.nspname, s.nspname || '.' || c.relname,
         c.relname, format('%I.%I', s.nspname, c.relname), c.relowner,
         COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)),
         EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                 AND d.objid = c.oid AND d.deptype = 'e')
  FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
  WHERE ($1::text = 'r' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') OR $1::text = 'S' AND c.relkind = 'S')
    AND CASE WHEN $3::bool THEN s.nspname = ANY ($2::text[])
        ELSE s.nspname || '.' || c.relname = ANY ($2::text[]) OR c.relname = ANY ($2::text[]) END
  UNION ALL
  SELECT 'f', p.oid, s.nspname, format('%s.%s(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
         format('%s.%s(%s)', s.nspname, p.proname, oidvectortypes(p.proargtypes)),
         format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner,
         COALESCE(p.proacl, acldefault('f', p.proowner)),
         EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                 AND d.objid = p.oid AND d.deptype = 'e')
  FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
  WHERE $1::text = 'f'
    AND CASE WHEN $3::bool THEN s.nspname = ANY ($2::text[])
        ELSE s.nspname || '.' || p.proname = ANY ($2::text[]) OR p.proname = ANY ($2::text[])
          OR format('%s.%s(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) = ANY ($2::text[])
          OR EXISTS (
            SELECT FROM unnest($2::text[]) asked
            WHERE replace(asked, ' ', '') IN (
              replace(format('%s.%s(%s)', s.nspname, p.proname, oidvectortypes(p.proargtypes)), ' ', ''),
              replace(format('%s(%s)', p.proname, oidvectortypes(p.proargtypes)), ' ', ''))) END
)
SELECT o.kind, o.schema, o.name, o.typed, o.sql_name, pg_get_userbyid(o.owner)::text AS owner,
  ARRAY(SELECT e.privilege_type || CASE WHEN e.is_grantable THEN '*' ELSE '' END || '/' || pg_get_userbyid(e.grantor)
        FROM aclexplode(o.acl) e WHERE e.grantee = $4::oid ORDER BY 1) AS rights,
  ARRAY(SELECT e.privilege_type || '/' || CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END
        FROM aclexplode(o.acl) e WHERE e.grantor = $4::oid AND e.grantee <> $4::oid AND o.owner <> $4::oid
        ORDER BY 1) AS passed_on,
  ARRAY(SELECT e.privilege_type || '/' || CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END
        FROM aclexplode(o.acl) e
        WHERE $4::oid <> 0 AND e.grantee <> $4::oid
          AND CASE e.grantee WHEN 0 THEN true ELSE pg_has_role($4::oid, e.grantee, 'USAGE') END
        ORDER BY 1) AS elsewhere,
  CASE WHEN $4::oid <> 0 AND o.kind IN ('r', 'S', 'f') THEN
    has_schema_privilege($4::oid, (SELECT oid FROM spaces WHERE nspname = o.schema), 'USAGE') ELSE true END AS reachable
FROM objects o
WHERE NOT ($3::bool AND o.extension)
ORDER BY 3
