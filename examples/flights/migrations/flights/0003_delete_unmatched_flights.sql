-- "Clean-up" before a foreign key can be declared: removes flights whose plane is not in our list. They are real
-- flights; see the README.
-- steward: irreversible

-- steward: up
DELETE FROM flights
WHERE plane_id IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM planes WHERE planes.id = flights.plane_id);
