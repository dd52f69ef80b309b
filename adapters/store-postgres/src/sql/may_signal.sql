-- Which of the logins may signal a session of $2 and see that it is the one that is meant.
-- $1: logins. $2: the session's login; empty for a worker of the server.
SELECT r.rolname::text
FROM pg_catalog.pg_roles r
LEFT JOIN pg_catalog.pg_roles t ON t.rolname = $2::text
WHERE r.rolname = ANY ($1::text[])
  AND (r.rolsuper
    OR t.oid IS NOT NULL AND NOT t.rolsuper
      AND (pg_has_role(r.oid, t.oid, 'USAGE')
        OR pg_has_role(r.oid, 'pg_signal_backend', 'USAGE') AND pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE')))
