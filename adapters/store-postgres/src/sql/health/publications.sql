-- Published tables whose rows have no identity: updating or deleting one of their rows is an error.
SELECT DISTINCT p.pubname::text AS publication, t.full_name AS name
FROM pg_publication p
JOIN pg_publication_tables pt ON pt.pubname = p.pubname
JOIN {tables} t ON t.nspname = pt.schemaname AND t.relname = pt.tablename
WHERE (p.pubupdate OR p.pubdelete)
  AND (
    t.relreplident = 'n'
    OR t.relreplident = 'd' AND NOT EXISTS (
      SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary AND i.indisvalid
    )
    OR t.relreplident = 'i' AND NOT EXISTS (
      SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisreplident AND i.indisvalid
    )
  )
ORDER BY 2
