-- How many times a session has been refreshed, as the token that works says; none for a session that was not refreshed since
-- this migration. A table of its own, because a node of the version before reads all columns of sessions by their names.
CREATE TABLE refresh_counts (
  session_id {{.UUID}} NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
  count      bigint NOT NULL
);
