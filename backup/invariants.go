package backup

import (
	"fmt"
	"slices"
)

// invariant is a rule about the data, as a query for the rows that break it. The queries are the
// same for both databases where these allow it, and each passes over its tables once or twice, so
// that a database of any size is checked in a time that grows with it.
type invariant struct {
	kind  string // what is wrong with the rows that are found
	table string
	query string // selects key and problem, both text
}

// Conditions on the conversation of a row. Conversations that have ended are being deleted, some
// rows of any table at a time, so nothing holds for what is left of them.
const (
	ended    = "(SELECT id FROM conversations WHERE ended_at IS NOT NULL)"
	notEnded = "conversation_id NOT IN " + ended
)

// aboutMessages are the kinds of events that have a message, except the one that begins it.
const aboutMessages = "('message_edited', 'message_deleted', 'reaction_added', 'reaction_removed')"

func (c *check) invariants() []invariant {
	list := slices.Concat(logInvariants, messageInvariants, memberInvariants, accountInvariants)
	list = append(list, references()...)
	if c.postgres {
		// Positions are ids of transactions, which another server has other ones of.
		return append(list, postgresInvariants...)
	}
	return append(list, sqliteInvariants()...)
}

// The log: seqs without gaps, and the columns of conversations that are derived from it.
//
//nolint:gochecknoglobals // a constant
var logInvariants = []invariant{
	{
		"the log has a gap or a doubled seq", "events", `
		SELECT CAST(conversation_id AS text) || ' ' || seq AS key,
			'comes after seq ' || before AS problem
		FROM (
			SELECT conversation_id, seq, kind,
				coalesce(lag(seq) OVER (PARTITION BY conversation_id ORDER BY seq), 0) AS before,
				CASE WHEN kind = 'history_restored' THEN CAST(data->>'first' AS text) END AS first
			FROM events WHERE ` + notEnded + ` AND conversation_id IN (
				SELECT conversation_id FROM events GROUP BY conversation_id
				HAVING count(*) <> max(seq) OR count(DISTINCT seq) <> max(seq) OR min(seq) <> 1)
		) AS e
		WHERE CASE WHEN kind = 'history_restored'
			THEN first IS DISTINCT FROM CAST(before + 1 AS text)
			ELSE seq <> before + 1 END`,
	},
	{
		"last_seq is not the seq of the newest event", "conversations", `
		SELECT CAST(c.id AS text) AS key, 'last_seq is ' || c.last_seq ||
			', and the newest event ' || coalesce('has ' || e.seq, 'is missing') AS problem
		FROM conversations AS c LEFT JOIN (
			SELECT conversation_id, max(seq) AS seq FROM events GROUP BY conversation_id
		) AS e ON e.conversation_id = c.id
		WHERE c.ended_at IS NULL AND c.last_seq IS DISTINCT FROM e.seq`,
	},
	{
		"last_message_seq is not the seq of the newest message", "conversations", `
		SELECT CAST(c.id AS text) AS key, 'last_message_seq is ' || c.last_message_seq ||
			', and the newest message has ' || coalesce(m.seq, 0) AS problem
		FROM conversations AS c LEFT JOIN (
			SELECT conversation_id, max(seq) AS seq FROM messages GROUP BY conversation_id
		) AS m ON m.conversation_id = c.id
		WHERE c.ended_at IS NULL AND c.last_message_seq <> coalesce(m.seq, 0)`,
	},
	{
		"the times of a conversation are not those of its newest events", "conversations", `
		SELECT CAST(c.id AS text) AS key, CASE
			WHEN c.last_event_at <> e.at THEN 'last_event_at is not the time of the newest event'
			ELSE 'last_activity_at is not the time of the newest activity' END AS problem
		FROM conversations AS c JOIN (
			SELECT CAST(conversation_id AS text) AS id, max(at) AS at,
				max(CASE WHEN kind NOT IN ` + aboutMessages + ` THEN at END) AS active,
				max(CASE WHEN kind NOT IN ` + aboutMessages + ` AND kind <> 'history_restored'
					THEN at END) AS active_before
			FROM events GROUP BY CAST(conversation_id AS text)
		) AS e ON e.id = CAST(c.id AS text)
		WHERE c.ended_at IS NULL AND (c.last_event_at <> e.at
			OR c.last_activity_at <> e.active AND c.last_activity_at <> e.active_before)`,
	},
	{
		"a conversation begins twice, or without an event", "events", `
		SELECT CAST(conversation_id AS text) || ' ' || seq AS key,
			'the kind is ' || kind AS problem
		FROM events
		WHERE (seq = 1) <> (kind = 'conversation_created') AND ` + notEnded,
	},
	{
		"an event is about a message that is missing", "events", `
		SELECT CAST(e.conversation_id AS text) || ' ' || e.seq AS key,
			e.kind || ' of ' || coalesce(CAST(e.message_id AS text), 'no message') AS problem
		FROM events AS e
			LEFT JOIN messages AS m ON m.id = e.message_id AND m.conversation_id = e.conversation_id
		WHERE e.kind IN ` + aboutMessages + ` AND (m.seq IS NULL OR m.seq >= e.seq)
			AND e.` + notEnded,
	},
}

// Messages: each is one event, and what belongs to it is there.
//
//nolint:gochecknoglobals // a constant
var messageInvariants = []invariant{
	{
		"a message has no event, or one that does not agree", "messages", `
		SELECT CAST(m.conversation_id AS text) || ' ' || m.seq AS key,
			'message ' || CAST(m.id AS text) || CASE
			WHEN e.kind IS NULL THEN ': the event is missing'
			WHEN e.kind <> 'message_added' OR e.message_id IS DISTINCT FROM m.id
				THEN ': the event is ' || e.kind || ' of ' ||
					coalesce(CAST(e.message_id AS text), 'no message')
			WHEN m.created_at <> e.at THEN ' is from ' || CAST(m.created_at AS text) ||
				', the event from ' || CAST(e.at AS text)
			ELSE ' is by ' || CAST(m.author_id AS text) || ', the event by ' ||
				CAST(e.actor_id AS text) END AS problem
		FROM messages AS m
			LEFT JOIN events AS e ON e.conversation_id = m.conversation_id AND e.seq = m.seq
		WHERE (e.kind IS DISTINCT FROM 'message_added' OR e.message_id IS DISTINCT FROM m.id
			OR m.created_at <> e.at OR m.author_id <> e.actor_id) AND m.` + notEnded,
	},
	{
		"an event has no message", "events", `
		SELECT CAST(e.conversation_id AS text) || ' ' || e.seq AS key,
			'message ' || coalesce(CAST(e.message_id AS text), 'NULL') || ' is missing' AS problem
		FROM events AS e
			LEFT JOIN messages AS m ON m.conversation_id = e.conversation_id AND m.seq = e.seq
		WHERE e.kind = 'message_added' AND (m.id IS NULL OR m.id IS DISTINCT FROM e.message_id)
			AND e.` + notEnded,
	},
	{
		"a message id is doubled", "messages", `
		SELECT CAST(id AS text) AS key, count(*) || ' messages have this id' AS problem
		FROM messages GROUP BY id HAVING count(*) > 1`,
	},
	{
		"a message has other edits or deletions than its log", "messages", `
		SELECT CAST(m.conversation_id AS text) || ' ' || m.seq AS key,
			CASE WHEN m.deleted_at IS DISTINCT FROM e.deleted OR e.deletions > 1
				THEN 'deleted_at is ' || coalesce(CAST(m.deleted_at AS text), 'NULL') || ', and ' ||
					coalesce(e.deletions, 0) || ' events are deletions'
				ELSE 'edited_at is ' || coalesce(CAST(m.edited_at AS text), 'NULL') ||
					', and the newest edit is from ' || coalesce(CAST(e.edited AS text), 'never')
				END AS problem
		FROM messages AS m LEFT JOIN (
			SELECT message_id, conversation_id,
				max(CASE WHEN kind = 'message_deleted' THEN at END) AS deleted,
				count(CASE WHEN kind = 'message_deleted' THEN 1 END) AS deletions,
				max(CASE WHEN kind = 'message_edited' THEN at END) AS edited
			FROM events WHERE kind IN ('message_edited', 'message_deleted')
			GROUP BY message_id, conversation_id
		) AS e ON e.message_id = m.id AND e.conversation_id = m.conversation_id
		WHERE (m.deleted_at IS DISTINCT FROM e.deleted OR m.edited_at IS DISTINCT FROM e.edited
			OR e.deletions > 1) AND m.` + notEnded,
	},
	{
		"a deleted message has content, or another one has none", "messages", `
		SELECT CAST(conversation_id AS text) || ' ' || seq AS key,
			CASE WHEN deleted_at IS NULL THEN 'has no content'
				ELSE 'is deleted, and has content' END AS problem
		FROM messages
		WHERE CASE WHEN deleted_at IS NULL THEN content = ''
			ELSE content <> '' OR request_hash IS NOT NULL END`,
	},
	{
		"a message answers one that is missing", "messages", `
		SELECT CAST(m.conversation_id AS text) || ' ' || m.seq AS key,
			'answers ' || CAST(m.reply_to_id AS text) AS problem
		FROM messages AS m
			LEFT JOIN messages AS r
				ON r.id = m.reply_to_id AND r.conversation_id = m.conversation_id
		WHERE m.reply_to_id IS NOT NULL AND (r.seq IS NULL OR r.seq >= m.seq) AND m.` + notEnded,
	},
	{
		"an idempotency key has no author or no request hash", "messages", `
		SELECT CAST(conversation_id AS text) || ' ' || seq AS key, 'has the key ' ||
			idempotency_key AS problem
		FROM messages WHERE coalesce(idempotency_key, '') <> ''
			AND (author_id IS NULL OR request_hash IS NULL AND deleted_at IS NULL)`,
	},
	{
		"a reaction has no message", "reactions", `
		SELECT
			CAST(r.message_id AS text) || ' ' || CAST(r.user_id AS text) || ' ' || r.emoji AS key,
			CASE WHEN m.id IS NULL THEN 'the message is missing' ELSE 'the message is deleted' END
				AS problem
		FROM reactions AS r
			LEFT JOIN messages AS m ON m.id = r.message_id AND m.conversation_id = r.conversation_id
		WHERE (m.id IS NULL OR m.deleted_at IS NOT NULL) AND r.` + notEnded,
	},
	{
		"the number of reactions is not the one in the log", "reactions", `
		SELECT CAST(message_id AS text) || ' ' || emoji AS key,
			there || ' reactions, and ' || logged || ' by the newest event' AS problem
		FROM (SELECT conversation_id, message_id, emoji, sum(there) AS there, sum(logged) AS logged
		FROM (
			SELECT conversation_id, message_id, emoji, 1 AS there, 0 AS logged FROM reactions
			WHERE ` + notEnded + `
			UNION ALL
			SELECT conversation_id, message_id, emoji, 0, count FROM (
				SELECT conversation_id, message_id, seq, data->>'emoji' AS emoji,
					CAST(data->>'count' AS bigint) AS count, max(seq) OVER (
						PARTITION BY conversation_id, message_id, data->>'emoji') AS newest
				FROM events WHERE kind IN ('reaction_added', 'reaction_removed') AND ` + notEnded + `
			) AS e WHERE seq = newest
		) AS r GROUP BY conversation_id, message_id, emoji HAVING sum(there) <> sum(logged)) AS g
		WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.id = g.message_id
			AND m.conversation_id = g.conversation_id AND m.deleted_at IS NULL)`,
	},
	{
		"a mention has no message", "mentions", `
		SELECT CAST(mn.conversation_id AS text) || ' ' || CAST(mn.user_id AS text) || ' ' ||
			mn.seq AS key,
			CASE WHEN m.id IS NULL THEN 'the message is missing' ELSE 'the message is deleted' END
				AS problem
		FROM mentions AS mn LEFT JOIN messages AS m ON m.conversation_id = mn.conversation_id
			AND m.seq = mn.seq AND m.id = mn.message_id
		WHERE (m.id IS NULL OR m.deleted_at IS NOT NULL) AND mn.` + notEnded,
	},
}

// Members: who they are, and how far each of their pointers may be.
//
//nolint:gochecknoglobals // a constant
var memberInvariants = []invariant{
	{
		"a member's seq is out of bounds", "conversation_members", `
		SELECT CAST(cm.conversation_id AS text) || ' ' || CAST(cm.user_id AS text) AS key,
			'last_seq is ' || c.last_seq || ', joined_seq ' || cm.joined_seq || ', hidden_seq ' ||
			cm.hidden_seq || ', last_read_seq ' || cm.last_read_seq || ', archived_seq ' ||
			cm.archived_seq AS problem
		FROM conversation_members AS cm JOIN conversations AS c ON c.id = cm.conversation_id
		WHERE NOT (cm.joined_seq BETWEEN 1 AND c.last_seq
			AND cm.hidden_seq BETWEEN 0 AND cm.joined_seq - 1
			AND cm.last_read_seq BETWEEN 0 AND c.last_seq
			AND cm.archived_seq BETWEEN 0 AND c.last_seq)`,
	},
	{
		"a group does not have one owner", "conversations", `
		SELECT CAST(c.id AS text) AS key, 'a ' || lower(c.kind) || ' conversation has ' ||
			count(cm.user_id) || ' owners' AS problem
		FROM conversations AS c LEFT JOIN conversation_members AS cm
			ON cm.conversation_id = c.id AND cm.role = 'OWNER'
		WHERE c.ended_at IS NULL GROUP BY c.id, c.kind
		HAVING count(cm.user_id) <> CASE c.kind WHEN 'GROUP' THEN 1 ELSE 0 END`,
	},
	{
		"a conversation has the wrong number of members", "conversations", `
		SELECT CAST(c.id AS text) AS key, count(cm.user_id) || ' members' || CASE
			WHEN c.ended_at IS NOT NULL THEN ', although it has ended'
			WHEN c.direct_key IS NOT NULL THEN ', and a direct_key' ELSE '' END AS problem
		FROM conversations AS c LEFT JOIN conversation_members AS cm ON cm.conversation_id = c.id
		GROUP BY c.id, c.kind, c.ended_at, c.direct_key
		HAVING CASE WHEN c.ended_at IS NOT NULL
				THEN count(cm.user_id) > 0 OR c.direct_key IS NOT NULL
			WHEN c.direct_key IS NOT NULL THEN count(cm.user_id) <> 2 OR c.kind <> 'DIRECT'
			ELSE count(cm.user_id) = 0 END`,
	},
	{
		"a departure is not in the log", "departures", `
		SELECT CAST(d.user_id AS text) || ' ' || CAST(d.conversation_id AS text) AS key,
			'seq ' || d.seq || ' is ' || coalesce(e.kind, 'missing') AS problem
		FROM departures AS d JOIN conversations AS c
			ON c.id = d.conversation_id AND c.ended_at IS NULL
			LEFT JOIN events AS e ON e.conversation_id = d.conversation_id AND e.seq = d.seq
		WHERE e.kind IS DISTINCT FROM 'member_removed'`,
	},
}

// Accounts: what package auth relies on.
//
//nolint:gochecknoglobals // a constant
var accountInvariants = []invariant{
	{
		"an account that is being removed has personal data", "users", `
		SELECT CAST(u.id AS text) AS key, 'removed_at is ' || CAST(u.removed_at AS text) AS problem
		FROM users AS u WHERE u.removed_at IS NOT NULL AND (u.email <> '' OR u.nickname <> ''
			OR u.search_key <> '' OR u.display_name IS NOT NULL OR u.about IS NOT NULL
			OR EXISTS (SELECT 1 FROM credentials WHERE user_id = u.id)
			OR EXISTS (SELECT 1 FROM one_time_tokens WHERE user_id = u.id)
			OR EXISTS (SELECT 1 FROM sessions WHERE user_id = u.id AND revoked_at IS NULL))`,
	},
	{
		"a session cannot be refreshed", "sessions", `
		SELECT CAST(id AS text) AS key, 'refresh_hash has ' || length(refresh_hash) || ' bytes'
			AS problem
		FROM sessions WHERE length(refresh_hash) <> 32`,
	},
	{
		"a table has not its one row", "cursor_key", `
		SELECT '' AS key, count(*) || ' rows' AS problem FROM cursor_key
		HAVING count(*) <> 1 OR max(length(secret)) <> 32`,
	},
	{
		"a table has not its one row", "stream_epoch", `
		SELECT '' AS key, count(*) || ' rows' AS problem FROM stream_epoch HAVING count(*) <> 1`,
	},
}

//nolint:gochecknoglobals // a constant
var postgresInvariants = []invariant{
	{
		"an event is earlier than the one before it", "events", `
		SELECT CAST(conversation_id AS text) || ' ' || seq AS key,
			'is from ' || CAST(at AS text) || ', the one before it from ' ||
			CAST(before AS text) AS problem
		FROM (
			SELECT conversation_id, seq, at,
				lag(at) OVER (PARTITION BY conversation_id ORDER BY seq) AS before
			FROM events WHERE ` + notEnded + `
		) AS e WHERE at < before`,
	},
	{
		"a message has no tokens, or a deleted one has", "messages", `
		SELECT CAST(conversation_id AS text) || ' ' || seq AS key,
			CASE WHEN tokens IS NULL THEN 'tokens are missing' ELSE 'is deleted, and has tokens' END
				AS problem
		FROM messages WHERE (tokens IS NULL) <> (deleted_at IS NOT NULL)`,
	},
}

func sqliteInvariants() []invariant {
	list := []invariant{
		{
			"a table has not its one row", "event_position",
			`SELECT '' AS key, count(*) || ' rows' AS problem FROM event_position
			HAVING count(*) <> 1`,
		},
		{
			"an event is earlier than the one before it", "events", `
			SELECT id || ' ' || seq AS key, 'is from ' || at || ' with position ' || position ||
				', the one before it from ' || at_before || ' with position ' || before AS problem
			FROM (
				SELECT id, seq, at, position,
					lag(at) OVER in_order AS at_before, lag(position) OVER in_order AS before
				FROM (SELECT CAST(conversation_id AS text) AS id, * FROM events
					WHERE ` + notEnded + `) AS e
				WINDOW in_order AS (PARTITION BY id ORDER BY seq)
			) AS e WHERE at < at_before OR position < before`,
		},
		{
			"a message has no tokens, or a deleted one has", "messages", `
			SELECT m.conversation_id || ' ' || m.seq AS key,
				iif(t.id IS NULL, 'tokens are missing', 'is deleted, and has tokens') AS problem
			FROM messages AS m LEFT JOIN message_tokens_content AS t ON t.id = m.rowid
			WHERE (t.id IS NULL) <> (m.deleted_at IS NOT NULL)`,
		},
		{
			"tokens have no message", "message_tokens", `
			SELECT 'rowid ' || t.id AS key, 'the message is missing' AS problem
			FROM message_tokens_content AS t LEFT JOIN messages AS m ON m.rowid = t.id
			WHERE m.rowid IS NULL`,
		},
	}
	for _, t := range []struct{ table, key string }{
		{"events", "conversation_id || ' ' || seq"},
		{"conversation_members", "conversation_id || ' ' || user_id"},
		{"departures", "user_id || ' ' || conversation_id"},
		{"sightings", "user_id"},
	} {
		list = append(list, invariant{
			"a position is beyond event_position", t.table, fmt.Sprintf(`
			SELECT %s AS key, 'position is ' || position AS problem FROM %s
			WHERE position > (SELECT max(last) FROM event_position) OR position < 0`,
				t.key, t.table),
		})
	}
	return list
}

// foreignKeys are the columns that refer to a row of another table. Both databases enforce them. A
// file that was repaired by hand, or written with the checks turned off, may break them.
//
//nolint:gochecknoglobals // a constant
var foreignKeys = []struct{ table, column, parent string }{
	{"conversation_members", "conversation_id", "conversations"},
	{"conversation_members", "user_id", "users"},
	{"credentials", "user_id", "users"},
	{"departures", "user_id", "users"},
	{"events", "actor_id", "users"},
	{"events", "conversation_id", "conversations"},
	{"mentions", "conversation_id", "conversations"},
	{"mentions", "user_id", "users"},
	{"messages", "author_id", "users"},
	{"messages", "conversation_id", "conversations"},
	{"one_time_tokens", "user_id", "users"},
	{"presences", "user_id", "users"},
	{"reactions", "conversation_id", "conversations"},
	{"reactions", "user_id", "users"},
	{"refresh_counts", "session_id", "sessions"},
	{"sessions", "user_id", "users"},
	{"sightings", "user_id", "users"},
}

func references() (list []invariant) {
	for _, r := range foreignKeys {
		list = append(list, invariant{
			"a row refers to one that is missing", r.table, fmt.Sprintf(`
			SELECT CAST(%[2]s AS text) AS key,
				count(*) || ' rows with this %[2]s, which %[3]s has not' AS problem
			FROM %[1]s WHERE %[2]s IS NOT NULL AND %[2]s NOT IN (SELECT id FROM %[3]s)
			GROUP BY %[2]s`, r.table, r.column, r.parent),
		})
	}
	return list
}
