-- Bytes of each table's and index's own pages. Reads every page of the file.
SELECT name, pgsize FROM dbstat('main', 1)
