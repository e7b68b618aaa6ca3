DROP TABLE reactions;
--bun:split
DROP TABLE events;
--bun:split
{{- if not .Postgres}}
DROP TABLE event_position;
--bun:split
{{- end}}
--bun:split
DROP TABLE messages;
--bun:split
DROP TABLE conversation_members;
--bun:split
DROP TABLE conversations;
