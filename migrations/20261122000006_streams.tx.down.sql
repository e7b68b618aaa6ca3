DROP TABLE stream_epoch;
--bun:split
ALTER TABLE conversations DROP COLUMN last_event_at;
--bun:split
CREATE INDEX events_position ON events (position);
--bun:split
DROP INDEX events_conversation_id_position;
--bun:split
DROP TABLE departures;
--bun:split
DROP INDEX conversation_members_position;
--bun:split
ALTER TABLE conversation_members DROP COLUMN position;
