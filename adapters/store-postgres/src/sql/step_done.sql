-- Records that a step is done.
-- $1: digest of the plan, $2: id of the step, $3: rows affected.
INSERT INTO steward.steward_steps (plan, step, state, started_at, done_at, rows_affected)
VALUES ($1, $2, 'done', pg_catalog.transaction_timestamp(), pg_catalog.clock_timestamp(), $3)
ON CONFLICT (plan, step) DO UPDATE
SET state = 'done', done_at = excluded.done_at, rows_affected = excluded.rows_affected
