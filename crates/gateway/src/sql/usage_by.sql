-- Usage summed by one of its dimensions.
-- ?: dimension; project, begin, end (microseconds); key three times, then person, route, provider and model, each
-- twice: empty for any.
SELECT
    CASE ?
        WHEN 'key' THEN key_name
        WHEN 'person' THEN person
        WHEN 'route' THEN route
        WHEN 'provider' THEN provider
        WHEN 'model' THEN provider || '/' || model
        WHEN 'tier' THEN tier
        WHEN 'operation' THEN operation
        WHEN 'ending' THEN ending
        WHEN 'cache' THEN cache
        ELSE project
    END AS name,
    at_us / 86400000000 AS day,
    SUM(CASE WHEN id LIKE '%#%' THEN 0 ELSE 1 END) AS requests,
    SUM(CASE WHEN ending = 'complete' THEN 1 ELSE 0 END) AS complete,
    SUM(CASE WHEN estimated <> 0 THEN 1 ELSE 0 END) AS estimated,
    SUM(CASE WHEN price_row = '' AND cost_usd_nanos = 0 AND cache NOT IN ('hit', 'semantic') AND ending <> 'failed'
              AND input + cache_read + output > 0 THEN 1 ELSE 0 END) AS unpriced,
    SUM(CASE WHEN cache IN ('hit', 'semantic') THEN 1 ELSE 0 END) AS hits,
    SUM(input) AS input, SUM(cache_read) AS cache_read, SUM(cache_write_5m) AS cache_write_5m,
    SUM(cache_write_1h) AS cache_write_1h, SUM(audio_input) AS audio_input, SUM(output) AS output,
    SUM(reasoning) AS reasoning, SUM(audio_output) AS audio_output,
    SUM(cost_usd_nanos) AS cost_usd_nanos
FROM ai_usage
WHERE project = ? AND at_us >= ? AND at_us < ?
  AND (? = '' OR key_name = ? OR key_id = ?)
  AND (? = '' OR person = ?)
  AND (? = '' OR route = ?)
  AND (? = '' OR provider = ?)
  AND (? = '' OR model = ?)
GROUP BY 1, 2
ORDER BY 1, 2
