DROP TABLE rate_limits;
--bun:split
DROP TABLE audit_log;
--bun:split
DROP TABLE one_time_tokens;
--bun:split
DROP TABLE revocations;
--bun:split
DROP TABLE sessions;
--bun:split
DROP TABLE credentials;
--bun:split
DROP TABLE users;
