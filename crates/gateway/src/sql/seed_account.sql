-- The account of a budget that is new within its period begins with what was used before.
-- ?: project, account, period's beginning; project, begin, end (microseconds), scope, value five times over;
-- project, account, period's beginning.
INSERT INTO ai_accounts (project, account, period_us, spent_usd_nanos)
SELECT ?, ?, ?, COALESCE(SUM(cost_usd_nanos), 0)
FROM ai_usage
WHERE project = ? AND at_us >= ? AND at_us < ?
  AND CASE ?
          WHEN 'key' THEN key_id
          WHEN 'person' THEN person
          WHEN 'route' THEN route
          WHEN 'provider' THEN provider
          WHEN 'model' THEN model
          ELSE project
      END = ?
  -- The sum is taken only when it is needed.
  AND NOT EXISTS (SELECT 1 FROM ai_accounts AS a WHERE a.project = ? AND a.account = ? AND a.period_us = ?)
ON CONFLICT (project, account, period_us) DO NOTHING
