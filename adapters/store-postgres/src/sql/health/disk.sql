-- The twenty largest tables with their indexes. Asking for the size of a table that is locked exclusively would wait;
-- for such a one the size is that of its last vacuum.
SELECT
  t.full_name AS name,
  CASE WHEN t.locked THEN t.pages * current_setting('block_size')::int ELSE pg_total_relation_size(t.oid) END AS bytes,
  CASE WHEN t.locked THEN NULL ELSE pg_indexes_size(t.oid) END AS index_bytes,
  GREATEST(t.reltuples, 0)::bigint AS known_rows
FROM (
  SELECT
    c.*,
    c.relpages + COALESCE((SELECT sum(ic.relpages) FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = c.oid), 0)
      AS pages,
    EXISTS (SELECT FROM pg_locks l WHERE l.relation = c.oid AND l.mode = 'AccessExclusiveLock') AS locked
  FROM {tables} c WHERE c.relkind IN ('r', 'm')
) AS t
ORDER BY bytes DESC
LIMIT 20
