-- Each table's and index's pages: how many, bytes in them that hold nothing, and pages that do not follow the one
-- before; the largest first. Reads every page of the file.
SELECT name, count(*) AS pages, sum(pgsize) AS bytes, sum(unused) AS unused_bytes,
  sum(pageno <> before + 1) AS jumps
FROM (
  SELECT name, pgsize, unused, pageno, lag(pageno) OVER (PARTITION BY name ORDER BY path) AS before
  FROM dbstat WHERE name NOT LIKE 'steward%'
)
GROUP BY name
ORDER BY bytes DESC
LIMIT 200
