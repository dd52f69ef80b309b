-- Backups of several stores that were taken together, so that they fit each other; empty: alone.
ALTER TABLE backups ADD COLUMN together TEXT NOT NULL DEFAULT '';
CREATE INDEX backups_together ON backups (project, together) WHERE together <> '';
