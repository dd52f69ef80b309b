-- Sessions of this database that come over the network in the clear, per login and application.
SELECT a.usename::text AS user, a.application_name AS application, host(a.client_addr) AS address, count(*)::int AS sessions
FROM pg_stat_activity a JOIN pg_stat_ssl t ON t.pid = a.pid
WHERE a.datname = current_database() AND NOT t.ssl AND a.client_addr IS NOT NULL
GROUP BY 1, 2, 3
ORDER BY sessions DESC
LIMIT 100
