-- Indexes of table ?1: name, whether unique, origin (c: CREATE INDEX, u: UNIQUE, pk: PRIMARY KEY).
SELECT name, "unique", origin FROM pragma_index_list(?1, 'main') ORDER BY name
