-- Pages of the file, how large they are, how many are free, and whether SQLite gives free ones back by itself
-- (0 no, 1 yes, 2 when asked); one row.
SELECT
  (SELECT page_count FROM pragma_page_count) AS pages, (SELECT page_size FROM pragma_page_size) AS page_bytes,
  (SELECT freelist_count FROM pragma_freelist_count) AS free_pages,
  (SELECT auto_vacuum FROM pragma_auto_vacuum) AS auto_vacuum
