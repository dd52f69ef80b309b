-- Whether the record is there with all its columns; asks nothing of the login's rights.
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'steward' AND c.relname = 'steward_steps' AND a.attname = 'position' AND NOT a.attisdropped
)
