CREATE TABLE users (
  id           {{.UUID}} NOT NULL PRIMARY KEY,
  email        text NOT NULL,
  email_key    text NOT NULL,
  nickname     text NOT NULL,
  nickname_key {{.SortedText}} NOT NULL,
  display_name text,
  about        text,
  search_key   text NOT NULL,
  email_verified_at  {{.Time}},
  show_presence      boolean NOT NULL,
  send_read_receipts boolean NOT NULL,
  created_at   {{.Time}} NOT NULL,
  CONSTRAINT users_email_key_unique UNIQUE (email_key),
  CONSTRAINT users_nickname_key_unique UNIQUE (nickname_key)
);
--bun:split
CREATE TABLE credentials (
  user_id       {{.UUID}} NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  password_hash text NOT NULL,
  updated_at    {{.Time}} NOT NULL
);
--bun:split
CREATE TABLE sessions (
  id            {{.UUID}} NOT NULL PRIMARY KEY,
  user_id       {{.UUID}} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  created_at    {{.Time}} NOT NULL,
  last_used_at  {{.Time}} NOT NULL,
  expires_at    {{.Time}} NOT NULL,
  revoked_at    {{.Time}},
  user_agent    text,
  ip            text,
  refresh_hash  {{.Bytes}} NOT NULL,
  previous_hash {{.Bytes}},
  rotated_at    {{.Time}},
  CONSTRAINT sessions_refresh_hash_unique UNIQUE (refresh_hash)
);
--bun:split
CREATE UNIQUE INDEX sessions_previous_hash_unique ON sessions (previous_hash) WHERE previous_hash IS NOT NULL;
--bun:split
CREATE INDEX sessions_user_id ON sessions (user_id);
--bun:split
CREATE INDEX sessions_expires_at ON sessions (expires_at);
--bun:split
CREATE TABLE revocations (
  session_id {{.UUID}} NOT NULL PRIMARY KEY, -- of a session that may be gone, with its account
  at         {{.Time}} NOT NULL
);
--bun:split
CREATE INDEX revocations_at ON revocations (at);
--bun:split
CREATE TABLE one_time_tokens (
  hash       {{.Bytes}} NOT NULL PRIMARY KEY,
  purpose    text NOT NULL,
  user_id    {{.UUID}} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  email      text, -- the new address that the token confirms, where it does
  created_at {{.Time}} NOT NULL,
  expires_at {{.Time}} NOT NULL,
  used_at    {{.Time}}
);
--bun:split
CREATE INDEX one_time_tokens_expires_at ON one_time_tokens (expires_at);
--bun:split
CREATE INDEX one_time_tokens_user_id ON one_time_tokens (user_id, purpose);
--bun:split
CREATE TABLE audit_log (
  id         {{.UUID}} NOT NULL PRIMARY KEY,
  at         {{.Time}} NOT NULL,
  action     text NOT NULL,
  user_id    {{.UUID}}, -- whose account; null where there was none, or it is gone
  session_id {{.UUID}},
  ip         text,
  user_agent text
);
--bun:split
CREATE INDEX audit_log_user_id ON audit_log (user_id, at);
--bun:split
CREATE INDEX audit_log_at ON audit_log (at);
--bun:split
CREATE TABLE rate_limits (
  key   text NOT NULL PRIMARY KEY,
  at    {{.Time}} NOT NULL,
  count bigint NOT NULL
);
--bun:split
CREATE INDEX rate_limits_at ON rate_limits (at);
