-- Triggers as the server prints them.
-- $1: oids of the tables.
SELECT
  t.tgrelid AS table_oid,
  pg_get_triggerdef(t.oid)
    || CASE t.tgenabled WHEN 'D' THEN ' (disabled)' WHEN 'R' THEN ' (on replicas)' WHEN 'A' THEN ' (always)' ELSE '' END
    AS definition
FROM pg_trigger t
WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal
ORDER BY t.tgrelid, pg_get_triggerdef(t.oid) COLLATE "C"
