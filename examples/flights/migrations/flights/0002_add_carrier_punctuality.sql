-- A view for the punctuality page: adds something to read, touches no row.

-- steward: up
CREATE VIEW carrier_punctuality AS
SELECT c.name AS carrier,
       count(*) AS flights,
       sum(f.departure_delay_minutes IS NULL) AS not_departed,
       round(avg(f.arrival_delay_minutes), 1) AS arrival_delay_minutes_average
FROM flights AS f
JOIN carriers AS c ON c.code = f.carrier
GROUP BY c.name;

-- steward: down
DROP VIEW carrier_punctuality;
