-- Indexes, by the numbers of their columns: printing each is dear, and most can be written from these.
-- $1: oids of the tables. $2: how many tables there may be for their files to be looked at.
SELECT
  i.indexrelid AS index_oid,
  i.indrelid AS table_oid,
  c.relname AS name,
  i.indkey::int2[] AS columns,
  i.indclass::oid[] AS operator_classes,
  i.indcollation::oid[] AS collations,
  i.indisunique AS is_unique,
  m.amname AS method,
  -- Nothing but columns in ascending order, so that only operator classes and collations could be told beside them.
  c.relkind = 'i' AND m.amname = 'btree' AND i.indexprs IS NULL AND i.indpred IS NULL AND i.indnatts = i.indnkeyatts
    AND c.reloptions IS NULL AND c.reltablespace = 0 AND NOT 0 <> ANY (i.indoption::int2[])
    AND (NOT i.indisunique OR i.indisprimary OR to_jsonb(i) ->> 'indnullsnotdistinct' IS DISTINCT FROM 'true') AS plain,
  i.indisvalid AND i.indisready AS is_valid,
  CASE WHEN (SELECT count(*) <= $2 FROM pg_class WHERE relkind = 'r' AND oid >= 16384) THEN pg_relation_size(i.indexrelid)
    ELSE c.relpages::bigint * current_setting('block_size')::bigint END AS size_bytes
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = ANY ($1) AND i.indislive
