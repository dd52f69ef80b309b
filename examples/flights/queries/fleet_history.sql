SELECT p.id, p.manufacturer, p.model, p.built_year,
       (SELECT count(*) FROM flights AS f WHERE f.plane_id = p.id) AS flights
FROM planes AS p
WHERE p.built_year <= 1988
ORDER BY flights DESC, p.id
LIMIT 20
