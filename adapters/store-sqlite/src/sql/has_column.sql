-- Whether table ?1 has a column called ?2.
SELECT count(*) > 0 FROM pragma_table_xinfo(?1, 'main') WHERE name = ?2 COLLATE NOCASE
