-- Tables and views: name, kind (table, view, virtual, shadow), whether WITHOUT ROWID, whether STRICT.
SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main'
