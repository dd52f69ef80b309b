-- The record of a batched step: its own, or else an unfinished one of the same name that another plan began.
-- $1: digest of the plan, $2: id of the step, $3: the name, or NULL.
SELECT plan = $1 AND step = $2 AS own, plan, step, state = 'done' AS done, position
FROM steward.steward_steps
WHERE (plan = $1 AND step = $2) OR (resume = $3 AND state = 'started' AND position IS NOT NULL)
ORDER BY own DESC, started_at DESC
LIMIT 1
FOR UPDATE
