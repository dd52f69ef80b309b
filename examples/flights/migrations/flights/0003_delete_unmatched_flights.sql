-- "Clean-up": removes flights whose plane is not in our list. They are real flights; see the README.
-- steward: irreversible

-- steward: up
DELETE FROM flights
WHERE tailnum IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM planes WHERE planes.tailnum = flights.tailnum);
