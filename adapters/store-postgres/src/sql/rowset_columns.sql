-- Columns of a relation in their order, with what their values are below all domains.
-- $1: the relation's oid.
WITH RECURSIVE based AS (
  SELECT a.attnum, t.oid AS type_oid, t.typtype, t.typbasetype
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT b.attnum, t.oid, t.typtype, t.typbasetype
  FROM based b JOIN pg_type t ON t.oid = b.typbasetype
  WHERE b.typtype = 'd'
)
SELECT
  a.attname::text AS name,
  format_type(a.atttypid, a.atttypmod) AS native_type,
  a.attnotnull AS not_null,
  t.typname::text AS base,
  t.typtype = 'e' AS is_enum,
  -- Ordered by bytes, so that an index of the column is in the order of COLLATE "C".
  COALESCE(CASE WHEN l.collname = 'default' AND l.collnamespace = 'pg_catalog'::regnamespace
    THEN (SELECT d.datcollate IN ('C', 'POSIX') AND to_jsonb(d) ->> 'datlocprovider' IS DISTINCT FROM 'i'
          FROM pg_database d WHERE d.datname = current_database())
    ELSE l.collname IN ('C', 'POSIX', 'ucs_basic', 'pg_c_utf8') AND l.collnamespace = 'pg_catalog'::regnamespace
  END, false) AS by_bytes
FROM pg_attribute a
JOIN based b ON b.attnum = a.attnum AND b.typtype <> 'd'
JOIN pg_type t ON t.oid = b.type_oid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
