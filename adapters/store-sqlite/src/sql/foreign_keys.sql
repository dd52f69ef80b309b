-- Foreign keys of table ?1, a row per column: number of the key, parent, column, parent's column (NULL: its primary
-- key), actions on delete and update.
SELECT id, "table", "from", "to", on_delete, on_update FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq
