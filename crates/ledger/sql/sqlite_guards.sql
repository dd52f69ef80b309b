-- What exists is never changed: a slip in our own code fails. Who may write the file can drop these; the chain and the
-- head are what finds that. Bodies may be deleted, for erasure, and not be changed.
CREATE TRIGGER events_not_updated BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_not_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TRIGGER bodies_not_updated BEFORE UPDATE ON bodies
BEGIN SELECT RAISE(ABORT, 'bodies are never changed'); END;
CREATE TRIGGER bodies_deleted_only_after_erasure BEFORE DELETE ON bodies
WHEN NOT EXISTS (SELECT 1 FROM events WHERE kind = 'audit.erasure' AND subject = 'event:' || OLD.seq AND seq > OLD.seq)
BEGIN SELECT RAISE(ABORT, 'a body is deleted only after its erasure event'); END;
