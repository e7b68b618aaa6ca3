DROP INDEX conversations_ended;
--bun:split
ALTER TABLE conversations DROP COLUMN ended_at;
--bun:split
DROP INDEX users_removed;
--bun:split
ALTER TABLE users DROP COLUMN removed_at;
