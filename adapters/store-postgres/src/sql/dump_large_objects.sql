-- Large objects with what makes them again: statements on owner, rights and comment, the object's number as %1$s.
SELECT m.oid,
       pg_catalog.pg_has_role(m.lomowner, 'USAGE') AS readable,
       ARRAY(
         SELECT statement FROM (
           SELECT 1 AS place, pg_catalog.format('ALTER LARGE OBJECT %s OWNER TO %I', m.oid, pg_catalog.pg_get_userbyid(m.lomowner)) AS statement
           UNION ALL
           SELECT 2, pg_catalog.format('REVOKE ALL ON LARGE OBJECT %s FROM %I', m.oid, pg_catalog.pg_get_userbyid(m.lomowner))
           WHERE m.lomacl IS NOT NULL
           UNION ALL
           SELECT 3, pg_catalog.format('GRANT %s ON LARGE OBJECT %s TO %s%s', a.privilege_type, m.oid,
                         CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END,
                         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
           FROM pg_catalog.aclexplode(m.lomacl) AS a
           UNION ALL
           SELECT 4, pg_catalog.format('COMMENT ON LARGE OBJECT %s IS %L', m.oid, d.description)
           FROM pg_catalog.pg_description d
           WHERE d.classoid = 'pg_catalog.pg_largeobject'::regclass AND d.objoid = m.oid
         ) AS statements ORDER BY place, statement
       ) AS statements
FROM pg_catalog.pg_largeobject_metadata m
ORDER BY m.oid
