package chat

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

var errNoConversation = errs.New(errs.NotFound, "There is no such conversation.")

// place is where an event stands in its conversation: its number, and its time, which never steps
// back as the numbers rise.
type place struct {
	seq    int64
	at     time.Time
	active time.Time // when the conversation's newest activity was; at, where this is activity
}

// nextPlace locks the conversation until the transaction ends, and takes its next number. Activity
// brings the conversation to the top of its members' lists; edits, deletions and reactions are
// none.
func nextPlace(ctx context.Context, tx *store.Tx, id model.ConversationID, kind model.EventKind) (p place, err error) {
	// Whoever waited for the lock, or has a clock that is behind, does not turn time back.
	const later = "CASE WHEN coalesce(last_event_at, last_activity_at) < ? THEN ? ELSE coalesce(last_event_at, last_activity_at) END"
	q := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = last_seq + 1").
		Set("last_event_at = "+later, tx.Now, tx.Now).Where("id = ?", id)
	switch kind {
	case model.MessageEdited, model.MessageDeleted, model.ReactionAdded, model.ReactionRemoved:
	case model.MessageAdded:
		q = q.Set("last_message_seq = last_seq + 1")
		fallthrough
	default:
		q = q.Set("last_activity_at = "+later, tx.Now, tx.Now)
	}
	err = q.Returning("last_seq, last_event_at, last_activity_at").Scan(ctx, &p.seq, &p.at, &p.active)
	if errors.Is(err, sql.ErrNoRows) {
		return place{}, errNoConversation
	}
	return p, err
}

// appendEvent writes what happened at a place that nextPlace has taken, and has it announced after
// the commit.
func (s *Service) appendEvent(ctx context.Context, tx *store.Tx, e *model.Event, data any) (err error) {
	if e.Data, err = json.Marshal(data); err != nil {
		return err
	}
	position, err := nextPosition(ctx, tx)
	if err != nil {
		return err
	}
	if err := tx.NewInsert().Model(e).Value("position", "?", position).Returning("position").Scan(ctx, &e.Position); err != nil {
		return err
	}
	tx.AfterCommit(func() { s.announce([]*model.Event{e}) })
	return nil
}

// eventsAfter reads the events after a seq, oldest first, at most limit of them, with the messages
// that they are about.
func eventsAfter(
	ctx context.Context, db bun.IDB, id model.ConversationID, after int64, limit int,
) (events []*model.Event, err error) {
	err = db.NewSelect().Model(&events).Where("e.conversation_id = ?", id).Where("e.seq > ?", after).
		OrderExpr("e.seq").Limit(int64(limit)).Scan(ctx)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	return events, readMessages(ctx, db, events)
}

// readMessages reads the messages that events are about.
func readMessages(ctx context.Context, db bun.IDB, events []*model.Event) error {
	var messages []*model.Message
	var ids []model.MessageID
	for _, e := range events {
		if e.MessageID != nil {
			ids = append(ids, *e.MessageID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if err := db.NewSelect().Model(&messages).Where("m.id IN (?)", bun.List(ids)).Scan(ctx); err != nil {
		return err
	}
	byID := make(map[model.MessageID]*model.Message, len(messages))
	for _, m := range messages {
		byID[m.ID] = m
	}
	for _, e := range events {
		if e.MessageID != nil {
			e.Message = byID[*e.MessageID]
		}
	}
	return nil
}
