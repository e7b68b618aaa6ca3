-- What the version that applied a migration recorded about it. Migrations that were applied before
-- this table existed have no row. It is not a part of bun_migrations, because versions before this
-- migration refuse columns there that they do not know.
CREATE TABLE migration_records (
  name     text NOT NULL PRIMARY KEY, -- the number of the migration, as in bun_migrations
  comment  text NOT NULL, -- the rest of its name
  checksum text, -- SHA-256 of its file in hexadecimal; null for a migration that is not a file
  requires text, -- versions that do not know the migration of this number cannot use the database
  goal     text NOT NULL -- the last migration that was to be applied together with this one
);
