package feed

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// Append writes an event with the next seq of its conversation, and publishes it after the commit.
// The conversation stays locked until then; NOT_FOUND if there is none. e has the conversation, the
// kind and, if there are any, the actor and the message; Append sets the rest. It returns the time
// of the conversation's newest activity. Edits, deletions and reactions are not activity: they do
// not move the conversation to the top of its members' lists.
func (s *Service) Append(
	ctx context.Context, tx *store.Tx, e *model.Event, data any,
) (lastActivity time.Time, err error) {
	if lastActivity, err = nextSeq(ctx, tx, e); err != nil {
		return lastActivity, err
	}
	if e.Message != nil {
		e.MessageID = &e.Message.ID
	}
	return lastActivity, s.AppendFirst(ctx, tx, e, data)
}

// nextSeq locks the conversation until the transaction ends, and sets the event's seq and its time.
// Times never go back as seqs rise.
func nextSeq(
	ctx context.Context, tx *store.Tx, e *model.Event,
) (lastActivity time.Time, err error) {
	// A transaction that has waited for the lock, or whose node's clock is behind, may have an
	// earlier time than the event before.
	const later = "CASE WHEN coalesce(last_event_at, last_activity_at) < ? THEN ? " +
		"ELSE coalesce(last_event_at, last_activity_at) END"
	q := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = last_seq + 1").
		Set("last_event_at = "+later, tx.Now, tx.Now).Where("id = ?", e.ConversationID)
	switch e.Kind {
	case model.MessageEdited, model.MessageDeleted, model.ReactionAdded, model.ReactionRemoved:
	case model.MessageAdded:
		q = q.Set("last_message_seq = last_seq + 1")
		fallthrough
	default:
		q = q.Set("last_activity_at = "+later, tx.Now, tx.Now)
	}
	err = q.Returning("last_seq, last_event_at, last_activity_at").
		Scan(ctx, &e.Seq, &e.At, &lastActivity)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, membership.ErrNoConversation
	}
	return lastActivity, err
}

// AppendFirst writes an event that has its seq and time, and publishes it after the commit. It is
// for the first event of a conversation, whose row the same transaction has inserted with both.
func (s *Service) AppendFirst(
	ctx context.Context, tx *store.Tx, e *model.Event, data any,
) error {
	err := insertEvent(ctx, tx, e, data)
	tx.AfterCommit(func() { s.Publish([]*model.Event{e}) })
	return err
}

// insertEvent writes an event that has its seq and time.
func insertEvent(ctx context.Context, tx *store.Tx, e *model.Event, data any) (err error) {
	if e.Data, err = json.Marshal(data); err != nil {
		return err
	}
	if e.Kind != model.MessageAdded {
		e.StoredMark = model.NewMark()
	}
	return insert(ctx, tx, e)
}

// insert stores an event, and sets its position and the mark of the event before it. That is read
// by a statement that begins after the lock was taken, which costs no round trip on PostgreSQL.
func insert(ctx context.Context, tx *store.Tx, e *model.Event) error {
	position, err := NextPosition(ctx, tx)
	if err != nil {
		return err
	}
	insertion := tx.NewInsert().Model(e).Value("position", "?", position).Returning("position")
	before := model.Event{}
	read := tx.NewSelect().ColumnExpr("coalesce(b.kind, ''), b.message_id, coalesce(b.mark, 0)")
	const at = "b.conversation_id = ? AND b.seq = ?"
	into := []any{&before.Kind, &before.MessageID, &before.StoredMark}
	if tx.Postgres() {
		err = read.With("inserted", insertion).ColumnExpr("inserted.position").
			TableExpr("inserted").
			Join("LEFT JOIN events AS b ON "+at, e.ConversationID, e.Seq-1).
			Scan(ctx, append(into, &e.Position)...)
	} else if err = insertion.Scan(ctx, &e.Position); err == nil && e.Seq > 1 {
		err = read.TableExpr("events AS b").Where(at, e.ConversationID, e.Seq-1).Scan(ctx, into...)
		if errors.Is(err, sql.ErrNoRows) { // a seq that RaiseSeqs has left out
			err = nil
		}
	}
	e.Before = before.Mark()
	return err
}

var errHistoryChanged = errors.New("another event stands at this place, or none")

// eventsAfter reads the events after a place, oldest first, at most limit of them, with the
// messages that they are about. It returns the place with its mark. It returns errHistoryChanged if
// the event that stands there has another mark, or if none does.
func eventsAfter(
	ctx context.Context, db bun.IDB, id model.ConversationID, after Place, limit int,
) (events []*model.Event, at Place, err error) {
	if after.Seq > 0 {
		limit++ // for the event at the place
	}
	err = db.NewSelect().Model(&events).Where("e.conversation_id = ?", id).
		Where("e.seq >= ?", after.Seq).OrderExpr("e.seq").Limit(int64(limit)).Scan(ctx)
	if err != nil {
		return nil, after, err
	}
	stands := after.Seq > 0 && len(events) > 0 && events[0].Seq == after.Seq
	switch {
	case stands && events[0].Mark().Matches(after.Mark):
		after, events = placeOf(events[0]), events[1:]
	case stands || after.Mark != 0:
		return nil, after, errHistoryChanged
	case after.Seq > 0 && len(events) == limit: // a seq that RaiseSeqs has left out
		events = events[:limit-1]
	}
	if len(events) == 0 {
		return nil, after, nil
	}
	return events, after, readMessages(ctx, db, events)
}

// newestPlace reads the place of the newest event of a conversation; exists is false if there is
// no such conversation.
func newestPlace(
	ctx context.Context, db bun.IDB, id model.ConversationID,
) (p Place, exists bool, err error) {
	var e []*model.Event
	err = db.NewSelect().Model(&e).
		Join("JOIN conversations AS c ON c.id = e.conversation_id AND c.last_seq = e.seq").
		Where("c.id = ?", id).Where("c.ended_at IS NULL").Scan(ctx)
	if err != nil || len(e) == 0 {
		return p, false, store.Error(err)
	}
	return placeOf(e[0]), true, nil
}

// removalsAfter reads the events after a seq that end memberships, oldest first. If a user was
// removed twice, the first one ended the membership that is followed.
func removalsAfter(
	ctx context.Context, db bun.IDB, id model.ConversationID, after int64,
) (removals []*model.Event, err error) {
	err = db.NewSelect().Model(&removals).Where("e.conversation_id = ?", id).
		Where("e.seq > ?", after).Where("e.kind = ?", model.MemberRemoved).OrderExpr("e.seq").
		Scan(ctx)
	return removals, err
}

// RemovedSince reports whether any membership of a conversation has ended after a seq.
func (s *Service) RemovedSince(
	ctx context.Context, id model.ConversationID, seq int64,
) (bool, error) {
	removed, err := s.db.NewSelect().Model((*model.Event)(nil)).
		Where("e.conversation_id = ?", id).Where("e.seq > ?", seq).
		Where("e.kind = ?", model.MemberRemoved).Exists(ctx)
	return removed, store.Error(err)
}

// readMessages reads the messages that events are about, and sets them in the events.
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
	err := db.NewSelect().Model(&messages).Where("m.id IN (?)", bun.List(ids)).Scan(ctx)
	if err != nil {
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
