-- The highest number that each AUTOINCREMENT has given; only there if a table has one.
SELECT name, seq FROM sqlite_sequence WHERE name NOT LIKE 'steward%' ORDER BY abs(seq) DESC LIMIT 200
