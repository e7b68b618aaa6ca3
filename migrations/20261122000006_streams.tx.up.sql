-- When a membership began or was changed last, in the terms of events.position.
ALTER TABLE conversation_members ADD COLUMN position bigint NOT NULL DEFAULT 0;
--bun:split
CREATE INDEX conversation_members_position ON conversation_members (position);
--bun:split
-- The newest end of each membership, for those who were away: also of conversations that are gone.
CREATE TABLE departures (
  user_id         {{.UUID}} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  conversation_id {{.UUID}} NOT NULL,
  seq             bigint NOT NULL, -- of the event that says so
  position        bigint NOT NULL,
  PRIMARY KEY (user_id, conversation_id)
);
--bun:split
CREATE INDEX departures_position ON departures (position);
--bun:split
CREATE INDEX events_conversation_id_position ON events (conversation_id, position);
--bun:split
DROP INDEX events_position;
--bun:split
-- No event of a conversation is earlier than the one before it; null until there is one.
ALTER TABLE conversations ADD COLUMN last_event_at {{.Time}};
--bun:split
-- Positions of another epoch say nothing: one begins when a database is restored into another server.
CREATE TABLE stream_epoch (
  epoch   bigint NOT NULL,
  reached bigint NOT NULL -- no position has been given beyond it, or few
);
--bun:split
INSERT INTO stream_epoch (epoch, reached) VALUES (1, 0);
