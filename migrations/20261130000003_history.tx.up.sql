-- Distinguishes events that have the same seq in two histories; null if the message's id does.
ALTER TABLE events ADD COLUMN mark bigint;
--bun:split
-- Who has read a checkpoint can find out later whether the database still has all that was below it.
CREATE TABLE checkpoints (
  id  bigint NOT NULL PRIMARY KEY, -- a random number
  low bigint NOT NULL, -- every event with a lower position was committed before this row
  at  {{.Time}} NOT NULL
);
--bun:split
CREATE INDEX checkpoints_low ON checkpoints (low);
--bun:split
CREATE INDEX checkpoints_at ON checkpoints (at);
