-- Whose a file, a response or a conversation is, asked by its id alone; and the responses that providers no longer keep.
CREATE INDEX ai_things_remote_id ON ai_things (remote_id);
CREATE INDEX ai_things_responses ON ai_things (made_us) WHERE kind = 'response';
