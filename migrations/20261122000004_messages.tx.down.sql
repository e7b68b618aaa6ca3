{{- if .Postgres}}
ALTER TABLE messages DROP COLUMN tokens;
{{- else}}
DROP TRIGGER messages_deleted;
--bun:split
DROP TABLE message_tokens;
{{- end}}
--bun:split
DROP INDEX reactions_message_id;
--bun:split
DROP TABLE mentions;
--bun:split
ALTER TABLE conversations DROP COLUMN last_message_seq;
--bun:split
ALTER TABLE conversation_members ADD COLUMN archived boolean NOT NULL DEFAULT false;
--bun:split
UPDATE conversation_members SET archived = archived_seq > 0;
--bun:split
ALTER TABLE conversation_members DROP COLUMN archived_seq;
--bun:split
ALTER TABLE conversation_members DROP COLUMN draft;
