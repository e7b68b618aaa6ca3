DROP TABLE reactions;
--bun:split
DROP TABLE events;
--bun:split
DROP TABLE messages;
--bun:split
DROP TABLE conversation_members;
--bun:split
DROP TABLE conversations;
