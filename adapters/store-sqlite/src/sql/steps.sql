-- Steward's record of the steps of plans. A row appears with state `started` before an autocommit step, or with `done`
-- in the transaction of a transaction step. Times are UTC. Batched steps: `resume` is the name that other plans find the
-- step by, `position` how far it has come, as JSON.
CREATE TABLE IF NOT EXISTS main.steward_steps (
  plan_digest TEXT NOT NULL,
  step TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('started', 'done')),
  started_at TEXT NOT NULL,
  done_at TEXT,
  rows_affected INTEGER,
  resume TEXT,
  position TEXT,
  PRIMARY KEY (plan_digest, step)
) STRICT, WITHOUT ROWID
