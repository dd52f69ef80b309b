-- What ANALYZE recorded: per index, the number of rows and the rows per key.
SELECT tbl AS table_name, idx AS index_name, stat FROM sqlite_stat1 WHERE tbl NOT LIKE 'steward%' LIMIT 1000
