-- Columns of table ?1: name, declared type, NOT NULL, default, place in the primary key (0: none),
-- hidden (0: no, 1: argument of a virtual table, 2: virtual generated, 3: stored generated).
SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid
