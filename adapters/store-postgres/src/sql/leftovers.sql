-- Behind a pooler a server's session keeps what earlier clients prepared. Names that this driver gives would clash.
DO $steward$ DECLARE name text; BEGIN
  FOR name IN SELECT p.name FROM pg_catalog.pg_prepared_statements p WHERE p.name ~ '^s[0-9]+$' AND NOT p.from_sql LOOP
    EXECUTE format('DEALLOCATE %I', name);
  END LOOP;
END $steward$;
