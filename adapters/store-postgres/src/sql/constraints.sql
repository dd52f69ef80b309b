-- Primary keys, unique, foreign keys, checks and exclusions.
-- $1: oids of the tables.
SELECT
  c.conrelid,
  c.conname,
  c.contype,
  c.convalidated,
  c.conkey,
  c.conindid,
  c.confrelid,
  c.confkey,
  -- The parent may be none of the tables asked for.
  pn.nspname AS parent_namespace,
  p.relname AS parent_name,
  CASE WHEN p.oid IS NOT NULL THEN ARRAY(
    SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum ORDER BY k.place
  ) END AS parent_names,
  CASE WHEN c.contype = 'f' THEN concat_ws(
    ' ',
    CASE c.confmatchtype WHEN 'f' THEN 'MATCH FULL' END,
    CASE c.confdeltype
      WHEN 'r' THEN 'ON DELETE RESTRICT' WHEN 'c' THEN 'ON DELETE CASCADE'
      WHEN 'n' THEN 'ON DELETE SET NULL' WHEN 'd' THEN 'ON DELETE SET DEFAULT'
    END,
    CASE c.confupdtype
      WHEN 'r' THEN 'ON UPDATE RESTRICT' WHEN 'c' THEN 'ON UPDATE CASCADE'
      WHEN 'n' THEN 'ON UPDATE SET NULL' WHEN 'd' THEN 'ON UPDATE SET DEFAULT'
    END,
    CASE WHEN c.condeferrable THEN 'DEFERRABLE' END,
    CASE WHEN c.condeferred THEN 'INITIALLY DEFERRED' END
  ) END AS actions,
  -- One that names no column is printed without the table, so that the server does not open it; the others are asked for apart.
  CASE WHEN c.contype = 'c' AND c.conkey IS NULL THEN pg_get_expr(c.conbin, 0) END AS expression,
  -- What the other columns do not say: exclusions, and keys that are checked late.
  CASE WHEN c.contype = 'x' OR c.contype IN ('p', 'u') AND c.condeferrable THEN
    format('CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid))
  END AS definition,
  c.oid,
  c.connoinherit
FROM pg_constraint c
LEFT JOIN pg_class p ON p.oid = c.confrelid AND NOT c.confrelid = ANY ($1)
LEFT JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.conrelid = ANY ($1) AND c.contype IN ('p', 'u', 'f', 'c', 'x')
