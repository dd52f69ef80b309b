-- Takes of a budget what is left of it: all of it for a process that is alone, else a fair part, and at least what a
-- waiting request needs.
-- ?: project, account, period's beginning, holder, expiry; needs; then limit, project, account, period's beginning (three
-- times for spent, held and others with the holder).
INSERT INTO ai_slices (project, account, period_us, holder, amount_usd_nanos, spent_usd_nanos, expires_us)
SELECT
    ?, ?, ?, ?,
    CASE
        WHEN found.others = 0 OR found.remaining < 2 * (found.others + 1) THEN found.remaining
        WHEN found.remaining / (found.others + 1) > found.needs THEN found.remaining / (found.others + 1)
        WHEN found.needs < found.remaining THEN found.needs
        ELSE found.remaining
    END,
    0, ?
FROM (
    SELECT
        ? AS needs,
        ? - COALESCE((SELECT a.spent_usd_nanos FROM ai_accounts AS a
                      WHERE a.project = ? AND a.account = ? AND a.period_us = ?), 0)
          - COALESCE((SELECT SUM(s.amount_usd_nanos - s.spent_usd_nanos) FROM ai_slices AS s
                      WHERE s.project = ? AND s.account = ? AND s.period_us = ?), 0) AS remaining,
        (SELECT COUNT(*) FROM ai_slices AS o
         WHERE o.project = ? AND o.account = ? AND o.period_us = ? AND o.holder <> ?
           AND o.holder NOT LIKE 'job/%') AS others
) AS found
WHERE found.remaining > 0
ON CONFLICT (project, account, period_us, holder) DO UPDATE
SET amount_usd_nanos = ai_slices.amount_usd_nanos + excluded.amount_usd_nanos, expires_us = excluded.expires_us
