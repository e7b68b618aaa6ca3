package chat

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"parley/model"
	"parley/store"
)

// sweepEvery is how often Run looks for conversations that have ended and that no other node is
// deleting.
const sweepEvery = 30 * time.Second

// endConversation ends a conversation in which nobody is left. From then on nobody can see it. What
// it has is deleted at once if one short transaction can do so, else by Run, in batches.
func (s *Service) endConversation(
	ctx context.Context, tx *store.Tx, id model.ConversationID,
) error {
	// Those of accounts that are being removed; else the one that ends it.
	if _, err := tx.NewDelete().Model((*model.ConversationMember)(nil)).
		Where("conversation_id = ?", id).Exec(ctx); err != nil {
		return err
	}
	more, err := s.deleteSomeOf(ctx, tx, id)
	if err != nil || !more {
		return err
	}
	_, err = tx.NewUpdate().Model((*model.Conversation)(nil)).Set("ended_at = ?", tx.Now).
		Set("direct_key = NULL").Set("title = ''").
		Where("id = ?", id).Exec(ctx)
	tx.AfterCommit(s.ended.Notify)
	return err
}

// deleteSomeOf deletes some of what a conversation has, and at last the conversation. It reports
// whether there may be more.
func (s *Service) deleteSomeOf(
	ctx context.Context, tx *store.Tx, id model.ConversationID,
) (more bool, err error) {
	for _, table := range []string{"reactions", "mentions", "messages", "events"} {
		n, err := tx.DeleteSome(ctx, table, "conversation_id = ?", id)
		if err != nil {
			return false, err
		}
		more = more || n == store.SomeAtOnce
	}
	if more {
		return true, nil
	}
	_, err = tx.NewDelete().Model((*model.Conversation)(nil)).Where("id = ?", id).ForceDelete().
		Exec(ctx)
	return false, err
}

// sweep deletes conversations that have ended, those of other nodes included, until ctx ends.
func (s *Service) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.deleteEnded(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("cannot delete the conversations that have ended; retrying", "error",
				err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.ended.C():
		}
	}
}

// deleteEnded deletes every conversation that has ended, some rows in each transaction. It leaves
// out those at which another node is working.
func (s *Service) deleteEnded(ctx context.Context) error {
	for found := true; found; {
		err := s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			q := tx.NewSelect().Model((*model.Conversation)(nil)).Column("id").WhereDeleted().
				OrderExpr("c.id").Limit(1)
			if tx.Postgres() {
				q = q.For("UPDATE SKIP LOCKED")
			}
			var id model.ConversationID
			err := q.Scan(ctx, &id)
			if found = !errors.Is(err, sql.ErrNoRows); !found {
				return nil
			}
			if err != nil {
				return err
			}
			_, err = s.deleteSomeOf(ctx, tx, id)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
