-- Step ?2 of plan ?1 begins at ?3.
INSERT INTO main.steward_steps (plan_digest, step, state, started_at) VALUES (?1, ?2, 'started', ?3)
ON CONFLICT (plan_digest, step) DO UPDATE SET state = 'started', started_at = ?3
