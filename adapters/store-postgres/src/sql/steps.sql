-- Steward's record of the steps of plans, in a schema of its own.
CREATE SCHEMA IF NOT EXISTS steward;
CREATE TABLE IF NOT EXISTS steward.steward_steps (
  plan text NOT NULL,                              -- digest of the plan
  step text NOT NULL,                              -- the step's id in it
  state text NOT NULL CHECK (state IN ('started', 'done')),
  started_at timestamptz NOT NULL,
  done_at timestamptz,
  rows_affected bigint,
  PRIMARY KEY (plan, step)
);
ALTER TABLE steward.steward_steps ADD COLUMN IF NOT EXISTS resume text; -- batched steps: the name that other plans find it by
ALTER TABLE steward.steward_steps ADD COLUMN IF NOT EXISTS position text; -- batched steps: how far it has come, as JSON
