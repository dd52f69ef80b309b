-- Everything in the schema: kind, name, table it belongs to, statement that made it (NULL for automatic indexes).
SELECT type, name, tbl_name, sql FROM main.sqlite_schema ORDER BY type, name
