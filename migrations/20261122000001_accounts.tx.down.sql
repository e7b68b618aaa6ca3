DROP TABLE one_time_tokens;
--bun:split
DROP TABLE sessions;
--bun:split
DROP TABLE credentials;
--bun:split
DROP TABLE users;
