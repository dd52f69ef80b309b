-- Puts a writing session back to its beginning: what one step sets is not there for the next, as it would not be if
-- the next ran after a crash.
RESET SESSION AUTHORIZATION;
RESET ROLE;
RESET ALL;
SELECT pg_catalog.set_config(s.name, '1000', false) FROM pg_catalog.pg_settings s
WHERE s.name = 'client_connection_check_interval';
