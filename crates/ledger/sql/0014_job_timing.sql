-- By what a job is due: one whose schedule was changed is due by the new one. Empty: written before this column was there.
ALTER TABLE jobs ADD COLUMN timing TEXT NOT NULL DEFAULT '';
