-- Locks of the sessions in $1: those that are waited for, and those that are held, the strongest first.
-- $1: numbers of sessions.
SELECT l.pid, l.granted, l.mode,
  CASE l.locktype
    WHEN 'relation' THEN o.name
    WHEN 'extend' THEN 'the growth of ' || o.name
    WHEN 'page' THEN format('page %s of %s', l.page, o.name)
    WHEN 'tuple' THEN format('row (%s,%s) of %s', l.page, l.tuple, o.name)
    WHEN 'transactionid' THEN 'transaction ' || l.transactionid::text
    WHEN 'virtualxid' THEN 'virtual transaction ' || l.virtualxid
    WHEN 'advisory' THEN format('advisory lock %s', CASE l.objsubid
      WHEN 1 THEN ((l.classid::int8 << 32) | l.objid::int8)::text ELSE l.classid::text || ',' || l.objid::text END)
    ELSE l.locktype
  END AS object
FROM pg_catalog.pg_locks l
LEFT JOIN LATERAL (
  SELECT COALESCE(
    (SELECT CASE c.relkind WHEN 'i' THEN 'index ' WHEN 'I' THEN 'index ' WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view '
                           ELSE 'table ' END || n.nspname || '.' || c.relname
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = l.relation AND l.database IN (0, (SELECT d.oid FROM pg_catalog.pg_database d
                                                     WHERE d.datname = current_database()))),
    format('relation %s of database %s', l.relation, l.database)) AS name
) o ON true
WHERE l.pid = ANY ($1) AND (NOT l.granted OR l.locktype NOT IN ('virtualxid'))
ORDER BY l.pid, l.granted,
  array_position(ARRAY['AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock',
                       'ShareUpdateExclusiveLock', 'RowExclusiveLock', 'RowShareLock', 'AccessShareLock'], l.mode), 4
