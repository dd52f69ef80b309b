-- Steward's record of the steps of plans. A row appears with state `started` before an autocommit step, or with `done`
-- in the transaction of a transaction step. Times are UTC.
CREATE TABLE IF NOT EXISTS main.steward_steps (
  plan_digest TEXT NOT NULL,
  step TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('started', 'done')),
  started_at TEXT NOT NULL,
  done_at TEXT,
  rows_affected INTEGER,
  PRIMARY KEY (plan_digest, step)
) STRICT, WITHOUT ROWID
