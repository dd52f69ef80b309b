-- The record of a batched step: its own, or else an unfinished one of the same name that another plan began.
-- ?1: digest of the plan, ?2: id of the step, ?3: the name, or NULL.
SELECT plan_digest = ?1 AND step = ?2 AS own, plan_digest, step, state = 'done', position
FROM main.steward_steps
WHERE (plan_digest = ?1 AND step = ?2) OR (resume = ?3 AND state = 'started' AND position IS NOT NULL)
ORDER BY own DESC, started_at DESC
LIMIT 1
