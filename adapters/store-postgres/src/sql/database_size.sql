-- Bytes of the database, as its tables' are told: with very many tables, whose files would all be looked at, by the pages that the
-- catalog remembers. $1: how many tables there may be for their files to be looked at.
SELECT CASE WHEN (SELECT count(*) <= $1 FROM pg_class WHERE relkind = 'r' AND oid >= 16384)
  THEN pg_database_size(current_database())
  ELSE (SELECT sum(relpages) FROM pg_class)::bigint * current_setting('block_size')::bigint
END AS bytes
