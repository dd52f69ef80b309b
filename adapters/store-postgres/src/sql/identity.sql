-- What stays the same when the server is reached by another address.
SELECT format('%s/%s', c.system_identifier, d.oid)
FROM pg_catalog.pg_control_system() AS c, pg_catalog.pg_database AS d
WHERE d.datname = pg_catalog.current_database()
