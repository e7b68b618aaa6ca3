-- When the removal of an account was asked for: from then on nobody sees it, and what refers to it goes in batches. Null of all
-- other accounts.
ALTER TABLE users ADD COLUMN removed_at {{.Time}};
--bun:split
CREATE INDEX users_removed ON users (id) WHERE removed_at IS NOT NULL;
--bun:split
-- When a conversation ended that is deleted in batches. It has no members. Null of all other conversations.
ALTER TABLE conversations ADD COLUMN ended_at {{.Time}};
--bun:split
CREATE INDEX conversations_ended ON conversations (id) WHERE ended_at IS NOT NULL;
