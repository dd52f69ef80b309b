-- What this process holds in a project, with what is spent and held in all. What is held for jobs is no other process's.
-- ?: holder, project.
SELECT
    s.account, s.period_us, s.amount_usd_nanos, s.spent_usd_nanos,
    COALESCE((SELECT a.spent_usd_nanos FROM ai_accounts AS a
              WHERE a.project = s.project AND a.account = s.account AND a.period_us = s.period_us), 0) AS spent_in_all,
    (SELECT SUM(h.amount_usd_nanos - h.spent_usd_nanos) FROM ai_slices AS h
     WHERE h.project = s.project AND h.account = s.account AND h.period_us = s.period_us) AS held_in_all,
    (SELECT COUNT(*) FROM ai_slices AS o
     WHERE o.project = s.project AND o.account = s.account AND o.period_us = s.period_us
       AND o.holder <> s.holder AND o.holder NOT LIKE 'job/%') AS others,
    COALESCE((SELECT SUM(j.amount_usd_nanos - j.spent_usd_nanos) FROM ai_slices AS j
              WHERE j.project = s.project AND j.account = s.account AND j.period_us = s.period_us
                AND j.holder LIKE 'job/%'), 0) AS for_jobs
FROM ai_slices AS s
WHERE s.holder = ? AND s.project = ?
