CREATE TABLE conversations (
  id               {{.UUID}} NOT NULL PRIMARY KEY,
  kind             text NOT NULL CONSTRAINT conversations_kind_check CHECK (kind IN ('GROUP', 'DIRECT')),
  title            text NOT NULL,
  untitled         boolean NOT NULL, -- nobody gave the title: it is made of nicknames
  direct_key       text,
  history          text NOT NULL CONSTRAINT conversations_history_check CHECK (history IN ('FROM_START', 'FROM_JOINING')),
  members_may_rename boolean NOT NULL,
  last_seq         bigint NOT NULL,
  created_at       {{.Time}} NOT NULL,
  last_activity_at {{.Time}} NOT NULL,
  CONSTRAINT conversations_direct_key_unique UNIQUE (direct_key)
);
--bun:split
CREATE TABLE conversation_members (
  conversation_id {{.UUID}} NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  user_id         {{.UUID}} NOT NULL REFERENCES users (id),
  role            text NOT NULL CONSTRAINT conversation_members_role_check CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER')),
  joined_at       {{.Time}} NOT NULL,
  joined_seq      bigint NOT NULL,
  hidden_seq      bigint NOT NULL, -- they see what comes after this event
  last_read_seq   bigint NOT NULL,
  muted_until     {{.Time}},
  archived        boolean NOT NULL,
  pinned          boolean NOT NULL,
  PRIMARY KEY (conversation_id, user_id)
);
--bun:split
CREATE UNIQUE INDEX conversation_members_one_owner ON conversation_members (conversation_id) WHERE role = 'OWNER';
--bun:split
CREATE INDEX conversation_members_user_id ON conversation_members (user_id, conversation_id);
--bun:split
CREATE INDEX conversation_members_joined_seq ON conversation_members (conversation_id, joined_seq, user_id);
--bun:split
CREATE TABLE messages (
  id              {{.UUID}} NOT NULL,
  conversation_id {{.UUID}} NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  seq             bigint NOT NULL,
  author_id       {{.UUID}} REFERENCES users (id),
  content         text NOT NULL,
  reply_to_id     {{.UUID}},
  created_at      {{.Time}} NOT NULL,
  edited_at       {{.Time}},
  deleted_at      {{.Time}},
  idempotency_key text,
  request_hash    {{.Bytes}},
{{- if .Postgres}}
  PRIMARY KEY (conversation_id, seq)
{{- else}}
  rowid           integer PRIMARY KEY, -- named, so that a full-text index may refer to it
  CONSTRAINT messages_seq_unique UNIQUE (conversation_id, seq)
{{- end}}
);
--bun:split
CREATE INDEX messages_id ON messages (id);
--bun:split
CREATE UNIQUE INDEX messages_idempotency_key_unique ON messages (conversation_id, author_id, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
--bun:split
CREATE INDEX messages_author_id ON messages (author_id) WHERE author_id IS NOT NULL;
--bun:split
CREATE TABLE events (
  conversation_id {{.UUID}} NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  seq             bigint NOT NULL,
  kind            text NOT NULL,
  actor_id        {{.UUID}} REFERENCES users (id),
  message_id      {{.UUID}},
  data            {{.JSON}} NOT NULL,
  at              {{.Time}} NOT NULL,
  position        bigint NOT NULL,
  PRIMARY KEY (conversation_id, seq)
);
--bun:split
{{- if not .Postgres}}
CREATE TABLE event_position (
  last integer NOT NULL -- of all events, those of conversations that are gone included
);
--bun:split
INSERT INTO event_position (last) VALUES (0);
--bun:split
{{- end}}
CREATE INDEX events_position ON events (position);
--bun:split
CREATE INDEX events_actor_id ON events (actor_id) WHERE actor_id IS NOT NULL;
--bun:split
CREATE TABLE reactions (
  message_id      {{.UUID}} NOT NULL,
  conversation_id {{.UUID}} NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  user_id         {{.UUID}} NOT NULL REFERENCES users (id),
  emoji           text NOT NULL,
  created_at      {{.Time}} NOT NULL,
  PRIMARY KEY (conversation_id, message_id, user_id, emoji)
);
--bun:split
CREATE INDEX reactions_user_id ON reactions (user_id);
