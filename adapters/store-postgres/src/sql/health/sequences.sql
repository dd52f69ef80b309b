-- Sequences: how far they are, where they end, and the column that takes their numbers; those nearest the end first.
SELECT
  format('%I.%I', s.schemaname, s.sequencename) AS name, s.last_value::float8 AS last_value, s.cycle,
  CASE WHEN s.increment_by > 0 THEN s.max_value ELSE s.min_value END::float8 AS ends_at,
  s.increment_by::float8 AS increment,
  has_sequence_privilege(c.oid, 'SELECT') OR has_sequence_privilege(c.oid, 'USAGE') AS readable,
  o.column_name, o.type, o.holds_to::float8 AS column_holds_to
FROM pg_sequences s
JOIN {tables} c ON c.nspname = s.schemaname AND c.relname = s.sequencename AND c.relkind = 'S'
LEFT JOIN LATERAL (
  SELECT
    d.refobjid::regclass::text || '.' || quote_ident(a.attname) AS column_name, format_type(a.atttypid, NULL) AS type,
    CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 END AS holds_to
  FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
    AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  LIMIT 1
) AS o ON true
ORDER BY abs(s.last_value::float8 / LEAST(
  NULLIF(abs(CASE WHEN s.increment_by > 0 THEN s.max_value ELSE s.min_value END::float8), 0), o.holds_to
)) DESC NULLS LAST
LIMIT 500
