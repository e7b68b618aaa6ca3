-- Who has a live connection, by the node that holds it. A row counts while its node is alive.
CREATE TABLE nodes (
  id          {{.UUID}} NOT NULL PRIMARY KEY,
  seen_at     {{.Time}} NOT NULL, -- when it gave its last sign of life
  alive_until {{.Time}} NOT NULL -- unless it gives another one before
);
--bun:split
CREATE INDEX nodes_alive_until ON nodes (alive_until);
--bun:split
CREATE TABLE presences (
  user_id {{.UUID}} NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  node_id {{.UUID}} NOT NULL, -- written together with the node's row, and removed after it
  PRIMARY KEY (user_id, node_id)
);
--bun:split
CREATE INDEX presences_node_id ON presences (node_id);
--bun:split
-- Apart from users, whose rows are locked by whoever changes an account.
CREATE TABLE sightings (
  user_id      {{.UUID}} NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  last_seen_at {{.Time}}, -- null while the first time goes on
  position     bigint NOT NULL -- when the person came or went last, in the terms of events.position
);
--bun:split
CREATE INDEX sightings_position ON sightings (position);
--bun:split
CREATE INDEX users_hide_presence ON users (id) WHERE NOT show_presence;
