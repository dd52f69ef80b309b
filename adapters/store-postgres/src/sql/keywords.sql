-- What decides whether a name is quoted: words that mean something, and whether all names are; one row.
SELECT ARRAY(SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'), current_setting('quote_all_identifiers')::bool
