-- Logins whose recorded statements on this database only read, with how many calls that rests on.
SELECT pg_get_userbyid(s.userid)::text AS role, sum(s.calls)::int8 AS calls
FROM {schema}.pg_stat_statements s
WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
GROUP BY 1
HAVING sum(s.calls) >= 100
  AND sum(s.calls) FILTER (WHERE s.query !~* '^\s*(select|with|table|values|show|begin|commit|rollback|set|explain|fetch|close|declare|start|end|deallocate|discard|reset|savepoint|release)\M'
                             OR s.query ~* '\m(insert\s+into|update\s+\S+\s+set|delete\s+from|merge\s+into)\M') IS NULL
