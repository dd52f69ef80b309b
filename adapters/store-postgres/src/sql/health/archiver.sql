-- Whether finished pieces of the write-ahead log reach the archive; one row.
SELECT
  current_setting('archive_mode') AS mode,
  current_setting('archive_command') IN ('', '(disabled)') AND COALESCE(current_setting('archive_library', true), '') = ''
    AS without_command,
  a.archived_count AS archived, a.failed_count AS failed, a.last_failed_wal AS failed_segment,
  a.last_failed_time IS NOT NULL AND a.last_failed_time > COALESCE(a.last_archived_time, '-infinity') AS failing,
  extract(epoch FROM now() - a.last_archived_time)::float8 AS archived_seconds_ago,
  extract(epoch FROM now() - a.last_failed_time)::float8 AS failed_seconds_ago
FROM pg_stat_archiver a
