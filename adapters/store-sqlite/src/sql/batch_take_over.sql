-- Gives the record of a batched step to another plan.
-- ?1, ?2: digest and step that had it; ?3, ?4: digest and step that go on with it.
UPDATE main.steward_steps SET plan_digest = ?3, step = ?4 WHERE plan_digest = ?1 AND step = ?2
