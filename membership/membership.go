// Package membership answers who is a member of a conversation. Packages chat, live and feed ask
// it, so that they agree.
//
// An account whose removal has begun is marked, and counts as removed at once: see NotRemoved.
package membership

import (
	"context"
	"database/sql"
	"errors"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// Max is how many members a conversation has at most.
const Max = 500

// ErrNoConversation is NOT_FOUND. Non-members get it too: to them the conversation does not exist.
var ErrNoConversation = errs.New(errs.NotFound, "There is no such conversation.")

// NotRemoved is an SQL condition on a column of user ids: the account is not being removed. It is
// part of every query by which members see each other, or by which a member acts. Its subquery
// reads an index that is nearly always empty.
func NotRemoved(column string) string {
	return column + " NOT IN (SELECT id FROM users WHERE removed_at IS NOT NULL)"
}

// Of returns the actor's own membership; NOT_FOUND for non-members.
func Of(
	ctx context.Context, db bun.IDB, actor model.Actor, id model.ConversationID,
) (*model.ConversationMember, error) {
	m := new(model.ConversationMember)
	err := db.NewSelect().Model(m).Where("cm.conversation_id = ?", id).
		Where("cm.user_id = ?", actor.UserID).Where(NotRemoved("cm.user_id")).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoConversation
	}
	if err != nil {
		return nil, store.Error(err)
	}
	return m, nil
}

// SeqBounds are the seqs between which a member sees the messages of a conversation.
type SeqBounds struct {
	Last     int64      // the newest event
	LastMark model.Mark // its mark
	Hidden   int64      // messages up to this event came before the member joined, and are hidden
}

// Bounds returns the actor's SeqBounds; NOT_FOUND for non-members.
func Bounds(
	ctx context.Context, db bun.IDB, actor model.Actor, id model.ConversationID,
) (b SeqBounds, err error) {
	var last model.Event
	err = db.NewSelect().Model((*model.Conversation)(nil)).
		ColumnExpr("c.last_seq, viewer.hidden_seq, coalesce(e.kind, ''), e.message_id").
		ColumnExpr("coalesce(e.mark, 0)").
		Apply(Shared(actor, "c.id")).
		Join("LEFT JOIN events AS e ON e.conversation_id = c.id AND e.seq = c.last_seq").
		Where("c.id = ?", id).Where(NotRemoved("viewer.user_id")).
		Scan(ctx, &b.Last, &b.Hidden, &last.Kind, &last.MessageID, &last.StoredMark)
	if errors.Is(err, sql.ErrNoRows) {
		return SeqBounds{}, ErrNoConversation
	}
	b.LastMark = last.Mark()
	return b, store.Error(err)
}

// Shared narrows a query to the conversations that the actor is in, and joins the actor's own
// membership as viewer. column is where the query has the conversation's id.
func Shared(actor model.Actor, column string) func(*bun.SelectQuery) *bun.SelectQuery {
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Join("JOIN conversation_members AS viewer ON viewer.conversation_id = ?",
			bun.Safe(column)).Where("viewer.user_id = ?", actor.UserID)
	}
}

// UserIDs lists the members of each of the conversations, those whose account is being removed
// included.
func UserIDs(
	ctx context.Context, db bun.IDB, conversations []model.ConversationID,
) (map[model.ConversationID][]model.UserID, error) {
	if len(conversations) == 0 {
		return nil, nil
	}
	var found []model.ConversationMember
	err := db.NewSelect().Model(&found).Column("conversation_id", "user_id").
		Where("cm.conversation_id IN (?)", bun.List(conversations)).Scan(ctx)
	members := map[model.ConversationID][]model.UserID{}
	for _, m := range found {
		members[m.ConversationID] = append(members[m.ConversationID], m.UserID)
	}
	return members, store.Error(err)
}
