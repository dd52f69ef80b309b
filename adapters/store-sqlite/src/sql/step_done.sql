-- Step ?2 of plan ?1 was done at ?3 and affected ?4 rows (NULL: it was found done).
INSERT INTO main.steward_steps (plan_digest, step, state, started_at, done_at, rows_affected)
VALUES (?1, ?2, 'done', ?3, ?3, ?4)
ON CONFLICT (plan_digest, step) DO UPDATE SET state = 'done', done_at = ?3, rows_affected = ?4
