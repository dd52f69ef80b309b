-- Indexes that cannot be used, without those that are being built right now.
SELECT
  t.full_name AS table_name, format('%I.%I', t.nspname, ic.relname) AS name, i.indisunique AS is_unique,
  i.indisready AS is_maintained,
  (SELECT format('%I', con.conname) FROM pg_constraint con WHERE con.conindid = i.indexrelid AND con.conrelid = i.indrelid LIMIT 1)
    AS constraint_name
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid AND ic.relkind = 'i'
JOIN {tables} t ON t.oid = i.indrelid
WHERE NOT i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
  AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = i.indexrelid AND l.mode = 'ShareUpdateExclusiveLock')
ORDER BY 2
