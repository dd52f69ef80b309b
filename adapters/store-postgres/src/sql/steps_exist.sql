-- Whether the record is there; asks nothing of the login's rights.
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'steward' AND c.relname = 'steward_steps'
)
