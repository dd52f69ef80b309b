-- State of step ?2 of the plan with digest ?1.
SELECT state FROM main.steward_steps WHERE plan_digest = ?1 AND step = ?2
