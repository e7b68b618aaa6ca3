DROP TABLE checkpoints;
--bun:split
ALTER TABLE events DROP COLUMN mark;
