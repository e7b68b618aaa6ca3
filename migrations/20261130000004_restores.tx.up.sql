-- How many times a session has been refreshed, as the token that works says; none for a session that was not refreshed since
-- this migration. A table of its own, because a node of the version before reads all columns of sessions by their names.
CREATE TABLE refresh_counts (
  session_id {{.UUID}} NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
  count      bigint NOT NULL
);
--bun:split
-- The runs of `parley restored`: which conversations have got higher seqs, so that a run that was interrupted goes on.
CREATE TABLE restorations (
  began_at    {{.Time}} NOT NULL PRIMARY KEY,
  skip        bigint NOT NULL, -- how many seqs each conversation leaves out
  reached     {{.UUID}} NOT NULL, -- the newest conversation, by id, that is done
  raised      bigint NOT NULL, -- how many are done
  finished_at {{.Time}}
);
