package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"parley/auth"
	"parley/model"
	"parley/text"
)

// The invariants in this file cannot be checked by the database, because the code in Go decides
// what is right. Each reads its rows one by one.

// each calls fn with the columns of each row, all text. fn reports whether it wants more.
func (c *check) each(
	ctx context.Context, query string, fn func(row []string) (more bool, err error),
) (err error) {
	rows, err := c.tx.Tx.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	row, to := make([]string, len(columns)), make([]any, len(columns))
	for i := range row {
		to[i] = &row[i]
	}
	for more := true; more && rows.Next(); {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		if more, err = fn(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// checkTokens checks that a search finds every message by each of its words: the tokens are those
// that package text makes of the content.
func (c *check) checkTokens(ctx context.Context) error {
	query := `SELECT m.conversation_id, m.seq, m.content, t.c0
		FROM messages AS m JOIN message_tokens_content AS t ON t.id = m.rowid
		WHERE m.deleted_at IS NULL`
	if c.postgres {
		query = `SELECT CAST(conversation_id AS text), CAST(seq AS text), content,
				array_to_string(tsvector_to_array(tokens), ' ')
			FROM messages WHERE deleted_at IS NULL AND tokens IS NOT NULL`
	}
	return c.each(ctx, query, func(row []string) (more bool, err error) {
		want, got := text.Tokens(row[2]), strings.Fields(row[3])
		slices.Sort(want)
		slices.Sort(got)
		if want = slices.Compact(want); slices.Equal(want, slices.Compact(got)) {
			return true, nil
		}
		return c.report.add(Finding{
			Kind: "the tokens of a message are not those of its content", Table: "messages",
			Key:     row[0] + " " + row[1],
			Problem: fmt.Sprintf("%d tokens instead of %d", len(got), len(want)),
		}), nil
	})
}

// memberRow sorts the memberships of a conversation behind its events.
const memberRow = "9223372036854775807"

// checkMembers checks that the memberships and roles are those that the log leads to.
func (c *check) checkMembers(ctx context.Context) error {
	var id string // of the conversation that is read
	logged := map[model.UserID]model.Role{}
	const kind = "the members are not those of the log"
	report := func(user model.UserID, problem string) bool {
		key, _ := user.Value()
		return c.report.add(Finding{
			Kind: kind, Table: "conversation_members", Key: fmt.Sprint(id, " ", key),
			Problem: problem,
		})
	}
	finish := func() (more bool) {
		more = true
		for user, role := range logged {
			more = more && report(user, "is missing, and is "+string(role)+" by the log")
		}
		clear(logged)
		return more
	}
	more := true
	err := c.each(ctx, `
		SELECT CAST(conversation_id AS text) AS id, seq, kind, CAST(data AS text) AS data
		FROM events WHERE kind IN ('conversation_created', 'member_added', 'member_removed',
			'member_role_changed') AND `+notEnded+`
		UNION ALL
		SELECT CAST(conversation_id AS text), `+memberRow+`, role, CAST(user_id AS text)
		FROM conversation_members WHERE `+notEnded+`
		ORDER BY 1, 2`,
		func(row []string) (bool, error) {
			if row[0] != id {
				more = finish()
				id = row[0]
			}
			if row[1] != memberRow {
				applyToMembers(logged, model.EventKind(row[2]), row[3])
				return more, nil
			}
			var user model.UserID
			if user.Scan(row[3]) != nil {
				more = c.report.add(Finding{
					Kind: kind, Table: "conversation_members", Key: id + " " + row[3],
					Problem: "the user id is not a UUID",
				})
				return more, nil //nolint:nilerr // the finding has it
			}
			role, there := logged[user]
			delete(logged, user)
			switch {
			case !there:
				more = report(user, "is a member, and not by the log")
			case role != model.Role(row[2]):
				more = report(user, "is "+row[2]+", and "+string(role)+" by the log")
			}
			return more, nil
		})
	if err == nil && more {
		finish()
	}
	return err
}

// applyToMembers applies an event to the members of its conversation. Data that it cannot read
// changes nothing, and is found as a member that is missing or too many.
func applyToMembers(members map[model.UserID]model.Role, kind model.EventKind, data string) {
	switch kind {
	case model.ConversationCreated:
		var created model.ConversationCreatedData
		_ = json.Unmarshal([]byte(data), &created)
		for _, m := range created.Members {
			members[m.UserID] = m.Role
		}
	case model.MemberAdded, model.MemberRoleChanged:
		var m model.MemberData
		if json.Unmarshal([]byte(data), &m) == nil {
			members[m.UserID] = m.Role
		}
	case model.MemberRemoved:
		var m model.MemberRemovedData
		if json.Unmarshal([]byte(data), &m) == nil {
			delete(members, m.UserID)
		}
	default:
	}
}

// checkNames checks that accounts are found by their address and name: the columns that are
// compared are the folded names.
func (c *check) checkNames(ctx context.Context) error {
	return c.each(ctx, `
		SELECT CAST(id AS text), email, email_key, nickname, nickname_key, search_key,
			coalesce(display_name, '')
		FROM users WHERE removed_at IS NULL`,
		func(row []string) (more bool, err error) {
			u := model.User{NicknameKey: row[4]}
			if row[6] != "" {
				u.DisplayName = &row[6]
			}
			for _, column := range []struct{ name, want, got string }{
				{"email_key", text.Fold(row[1]), row[2]},
				{"nickname_key", text.Fold(row[3]), row[4]},
				{"search_key", auth.SearchKey(&u), row[5]},
			} {
				if column.want != column.got {
					return c.report.add(Finding{
						Kind: "an account cannot be found by its names", Table: "users",
						Key: row[0], Problem: column.name + " is not made of the name",
					}), nil
				}
			}
			return true, nil
		})
}
