-- Records how far a batched step has come.
-- $1: digest of the plan, $2: id of the step, $3: state, $4: rows affected in all, $5: the name or NULL, $6: position.
INSERT INTO steward.steward_steps (plan, step, state, started_at, done_at, rows_affected, resume, position)
VALUES ($1, $2, $3, pg_catalog.transaction_timestamp(), CASE WHEN $3 = 'done' THEN pg_catalog.clock_timestamp() END, $4, $5, $6)
ON CONFLICT (plan, step) DO UPDATE
SET state = excluded.state, done_at = excluded.done_at, rows_affected = excluded.rows_affected,
    position = excluded.position
