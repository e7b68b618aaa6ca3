-- What a person keeps for themselves about a conversation.
ALTER TABLE conversation_members ADD COLUMN draft text;
--bun:split
ALTER TABLE conversation_members ADD COLUMN archived_seq bigint NOT NULL DEFAULT 0; -- archived until a message comes after this event
--bun:split
UPDATE conversation_members SET archived_seq = (SELECT last_seq FROM conversations WHERE id = conversation_id) WHERE archived;
--bun:split
ALTER TABLE conversation_members DROP COLUMN archived;
--bun:split
ALTER TABLE conversations ADD COLUMN last_message_seq bigint NOT NULL DEFAULT 0; -- 0 while there is none
--bun:split
UPDATE conversations SET last_message_seq = coalesce((SELECT max(seq) FROM messages WHERE conversation_id = conversations.id), 0);
--bun:split
CREATE TABLE mentions (
  conversation_id {{.UUID}} NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  user_id         {{.UUID}} NOT NULL REFERENCES users (id),
  seq             bigint NOT NULL, -- of the message
  message_id      {{.UUID}} NOT NULL,
  PRIMARY KEY (conversation_id, user_id, seq)
);
--bun:split
CREATE INDEX mentions_message_id ON mentions (message_id);
--bun:split
CREATE INDEX mentions_user_id ON mentions (user_id);
--bun:split
CREATE INDEX reactions_message_id ON reactions (message_id, emoji, created_at, user_id);
--bun:split
{{- if .Postgres}}
-- The words of a message, as package text finds them; null once it is deleted.
ALTER TABLE messages ADD COLUMN tokens tsvector;
--bun:split
CREATE INDEX messages_tokens ON messages USING gin (tokens);
{{- else}}
-- The words of a message, as package text finds them, joined by spaces; the rowid is the message's.
CREATE VIRTUAL TABLE message_tokens USING fts5 (tokens, tokenize = 'ascii', detail = 'none', columnsize = 0);
--bun:split
-- What is deleted is gone, and not only marked.
INSERT INTO message_tokens (message_tokens, rank) VALUES ('secure-delete', 1);
--bun:split
-- For messages that go with their conversation; their rowids may be given again.
CREATE TRIGGER messages_deleted AFTER DELETE ON messages BEGIN
  DELETE FROM message_tokens WHERE rowid = old.rowid;
END;
{{- end}}
