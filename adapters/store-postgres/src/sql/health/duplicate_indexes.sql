-- Pairs of indexes of one table where one does all that the other does: `superfluous` has the same key columns as
-- `kept`, or the first of them, in the same order, with the same operators and the same condition. Compared as the
-- catalog has them, because printing a definition takes a lock.
WITH indexes AS (
  SELECT
    i.indexrelid, i.indrelid, t.full_name AS table_name, format('%I.%I', t.nspname, ic.relname) AS name, ic.relam,
    ic.relpages::bigint AS pages, i.indisunique, i.indisreplident OR i.indisclustered AS special,
    EXISTS (SELECT FROM pg_constraint con WHERE con.conindid = i.indexrelid) AS of_constraint,
    am.amname, i.indkey::int2[] AS columns,
    COALESCE(regexp_replace(i.indpred::text, ':location -?\d+', '', 'g'), '') AS condition,
    COALESCE(regexp_replace(i.indexprs::text, ':location -?\d+', '', 'g'), '') AS expressions,
    ARRAY(
      SELECT concat_ws(' ', i.indkey[n - 1], i.indclass[n - 1], i.indcollation[n - 1], i.indoption[n - 1])
      FROM generate_series(1, i.indnkeyatts) n ORDER BY n
    ) AS keys
  FROM pg_index i
  JOIN pg_class ic ON ic.oid = i.indexrelid AND ic.relkind = 'i'
  JOIN pg_am am ON am.oid = ic.relam
  JOIN {tables} t ON t.oid = i.indrelid AND t.relkind IN ('r', 'm')
  WHERE i.indisvalid
)
SELECT DISTINCT ON (a.name)
  a.table_name, a.name AS superfluous, b.name AS kept, a.keys = b.keys AS same_keys, a.pages,
  current_setting('block_size')::int AS page_bytes
FROM indexes a
JOIN indexes b
  ON b.indrelid = a.indrelid AND b.indexrelid <> a.indexrelid AND b.relam = a.relam AND b.condition = a.condition
  AND a.columns <@ b.columns AND (a.expressions = '' OR a.expressions = b.expressions)
WHERE NOT a.of_constraint AND NOT a.special
  AND (
    a.keys = b.keys AND (b.indisunique OR NOT a.indisunique)
      -- Of two that are alike in all, the younger one goes.
      AND (
        b.of_constraint OR b.special OR b.indisunique <> a.indisunique OR NOT b.columns <@ a.columns
        OR b.indexrelid < a.indexrelid
      )
    OR a.amname = 'btree' AND NOT a.indisunique AND cardinality(b.keys) > cardinality(a.keys)
      AND b.keys[1:cardinality(a.keys)] = a.keys
  )
ORDER BY a.name, same_keys DESC, b.pages
LIMIT 200
