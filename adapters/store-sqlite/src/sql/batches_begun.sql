-- Batched steps that have not come to their end, the oldest first.
SELECT plan_digest, step, position, started_at FROM main.steward_steps
WHERE state = 'started' AND position IS NOT NULL
ORDER BY started_at
