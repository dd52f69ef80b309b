-- The server looks every second whether we are still there, where it can (14 and later): a statement whose client died
-- must not go on.
SELECT set_config(name, '1000', false) FROM pg_settings WHERE name = 'client_connection_check_interval'
