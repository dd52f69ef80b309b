-- Settings that were changed and wait for a restart.
SELECT s.name, s.setting AS value FROM pg_settings s WHERE s.pending_restart ORDER BY s.name
