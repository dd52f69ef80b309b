SELECT p.tailnum, p.manufacturer, p.model, p.built_year,
       (SELECT count(*) FROM flights AS f WHERE f.tailnum = p.tailnum) AS flights
FROM planes AS p
WHERE p.built_year <= 1990
ORDER BY flights DESC, p.tailnum
LIMIT 20
