-- A page of usage in the order of time.
-- ?: project, begin, end; the last row of the page before: time, time, id; then rows.
SELECT * FROM ai_usage
WHERE project = ? AND at_us >= ? AND at_us < ?
  AND (at_us > ? OR (at_us = ? AND id > ?))
ORDER BY at_us, id
LIMIT ?
