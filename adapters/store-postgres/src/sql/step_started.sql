-- Records that a step outside a transaction begins; a second attempt keeps the first time.
-- $1: digest of the plan, $2: id of the step.
INSERT INTO steward.steward_steps (plan, step, state, started_at)
VALUES ($1, $2, 'started', pg_catalog.clock_timestamp())
ON CONFLICT (plan, step) DO NOTHING
