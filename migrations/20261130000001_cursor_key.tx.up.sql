-- The key that authenticates cursors of `events`, one row. It is kept beside the positions that those cursors name: every
-- node has it, it is restored with them, and nothing else is signed with it.
CREATE TABLE cursor_key (
  secret {{.Bytes}} NOT NULL
);
--bun:split
{{- if .Postgres}}
-- Two random UUIDs have 244 random bits, which PostgreSQL takes from its strong source.
INSERT INTO cursor_key (secret) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
{{- else}}
INSERT INTO cursor_key (secret) VALUES (randomblob(32));
{{- end}}
