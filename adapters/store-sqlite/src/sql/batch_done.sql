-- Records how far a batched step has come.
-- ?1: digest of the plan, ?2: id of the step, ?3: state, ?4: the time, ?5: rows affected in all, ?6: the name or NULL,
-- ?7: position.
INSERT INTO main.steward_steps (plan_digest, step, state, started_at, done_at, rows_affected, resume, position)
VALUES (?1, ?2, ?3, ?4, CASE WHEN ?3 = 'done' THEN ?4 END, ?5, ?6, ?7)
ON CONFLICT (plan_digest, step) DO UPDATE
SET state = ?3, done_at = excluded.done_at, rows_affected = ?5, position = ?7
