-- Everything else that a database is made of: kind and definition.
WITH
  mine AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'steward') AND nspname !~ '^pg_(toast_)?temp_'
  ),
  of_extensions AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
  others AS (
    SELECT 'pg_namespace'::regclass AS classid, n.oid, 'schema' AS kind, quote_ident(n.nspname) AS definition
    FROM mine n WHERE n.nspname <> 'public'
    UNION ALL
    -- A sequence behind an identity column goes with the column.
    SELECT 'pg_class'::regclass, c.oid, 'sequence', format(
      '%I.%I AS %s START %s INCREMENT %s MINVALUE %s MAXVALUE %s CACHE %s%s', n.nspname, c.relname,
      format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
      CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END
    )
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN mine n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (
      SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i'
    )
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 'enum', format('%I.%I (%s)', n.nspname, t.typname, (
      SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid
    ))
    FROM pg_type t JOIN mine n ON n.oid = t.typnamespace WHERE t.typtype = 'e'
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 'domain', concat_ws(
      ' ', format('%I.%I AS %s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod)),
      'DEFAULT ' || t.typdefault, CASE WHEN t.typnotnull THEN 'NOT NULL' END,
      (SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname) FROM pg_constraint k
       WHERE k.contypid = t.oid AND k.contype = 'c')
    )
    FROM pg_type t JOIN mine n ON n.oid = t.typnamespace WHERE t.typtype = 'd'
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 'type', format('%I.%I (%s)', n.nspname, t.typname, (
      SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
      FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ))
    FROM pg_type t JOIN mine n ON n.oid = t.typnamespace JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, 'range', format('%I.%I (%s)', n.nspname, t.typname, format_type(r.rngsubtype, NULL))
    FROM pg_type t JOIN mine n ON n.oid = t.typnamespace JOIN pg_range r ON r.rngtypid = t.oid
    UNION ALL
    -- Bodies are long and may hold literals, so they are told by their SHA-256.
    SELECT 'pg_proc'::regclass, p.oid,
      CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' WHEN 'w' THEN 'window function' ELSE 'function' END,
      format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
        || COALESCE(' RETURNS ' || pg_get_function_result(p.oid), '') || ' LANGUAGE ' || quote_ident(l.lanname)
        || CASE WHEN p.prosecdef THEN ' SECURITY DEFINER' ELSE '' END
        || CASE WHEN p.prokind = 'a' THEN ''
           ELSE ' sha256:' || encode(sha256(convert_to(pg_get_functiondef(p.oid), 'UTF8')), 'hex') END
    FROM pg_proc p JOIN mine n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    UNION ALL
    SELECT 'pg_rewrite'::regclass, r.oid, 'rule', pg_get_ruledef(r.oid)
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN mine n ON n.oid = c.relnamespace
    WHERE r.rulename <> '_RETURN'
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 'policy', concat_ws(
      ' ', format('%I ON %I.%I FOR %s', p.polname, n.nspname, c.relname,
        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END),
      CASE WHEN NOT p.polpermissive THEN 'RESTRICTIVE' END,
      'TO ' || (SELECT string_agg(COALESCE(quote_ident(r.rolname), 'PUBLIC'), ', ' ORDER BY r.rolname)
                FROM unnest(p.polroles) AS m (oid) LEFT JOIN pg_roles r ON r.oid = m.oid),
      'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
      'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'
    )
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN mine n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, 'index of a materialized view', pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid AND c.relkind = 'm' JOIN mine n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, 'view options',
      format('%I.%I WITH (%s)', n.nspname, c.relname, array_to_string(c.reloptions, ', '))
    FROM pg_class c JOIN mine n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND c.reloptions IS NOT NULL
    UNION ALL
    SELECT 'pg_statistic_ext'::regclass, s.oid, 'statistics', pg_get_statisticsobjdef(s.oid)
    FROM pg_statistic_ext s JOIN mine n ON n.oid = s.stxnamespace
    UNION ALL
    SELECT 'pg_event_trigger'::regclass, e.oid, 'event trigger',
      format('%I ON %s EXECUTE FUNCTION %s', e.evtname, e.evtevent, e.evtfoid::regproc)
    FROM pg_event_trigger e
    UNION ALL
    SELECT 'pg_foreign_server'::regclass, s.oid, 'foreign server', quote_ident(s.srvname)
    FROM pg_foreign_server s
    UNION ALL
    SELECT 'pg_publication'::regclass, p.oid, 'publication',
      quote_ident(p.pubname) || CASE WHEN p.puballtables THEN ' FOR ALL TABLES' ELSE '' END
    FROM pg_publication p
  )
SELECT o.kind, o.definition
FROM others o LEFT JOIN of_extensions e ON e.classid = o.classid AND e.objid = o.oid
WHERE e.objid IS NULL AND o.definition IS NOT NULL
ORDER BY o.kind COLLATE "C", o.definition COLLATE "C"
