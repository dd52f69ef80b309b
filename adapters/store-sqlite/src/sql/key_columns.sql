-- Columns of the primary key of table ?1, in the key's order.
SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE pk > 0 ORDER BY pk
