-- Batched steps that have not come to their end, the oldest first.
SELECT plan, step, position, started_at::text FROM steward.steward_steps
WHERE state = 'started' AND position IS NOT NULL
ORDER BY started_at
