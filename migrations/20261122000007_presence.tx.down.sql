DROP INDEX users_hide_presence;
--bun:split
DROP TABLE sightings;
--bun:split
DROP TABLE presences;
--bun:split
DROP TABLE nodes;
