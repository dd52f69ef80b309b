-- Gives the record of a batched step to another plan.
-- $1, $2: digest and step that had it; $3, $4: digest and step that go on with it.
UPDATE steward.steward_steps SET plan = $3, step = $4 WHERE plan = $1 AND step = $2
