-- Connections in use and allowed: of the server, of this database, and of the roles that are connected to it.
SELECT
  'server' AS scope, '' AS name, (SELECT sum(numbackends)::int FROM pg_stat_database) AS used,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - COALESCE(current_setting('reserved_connections', true)::int, 0) AS allowed,
  (SELECT count(*)::int FROM pg_stat_activity WHERE state = 'idle' AND backend_type = 'client backend') AS idle
UNION ALL
SELECT 'database', d.datname::text, s.numbackends, d.datconnlimit, NULL
FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid
WHERE d.datname = current_database() AND d.datconnlimit >= 0
UNION ALL
SELECT 'role', r.rolname::text, count(*)::int, r.rolconnlimit, NULL
FROM pg_roles r JOIN pg_stat_activity a ON a.usesysid = r.oid
WHERE r.rolconnlimit >= 0
GROUP BY r.rolname, r.rolconnlimit
HAVING bool_or(a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()))
