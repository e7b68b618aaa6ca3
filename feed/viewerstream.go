package feed

import (
	"context"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

// viewerStream is what Inbox, Joined and ViewerEvents have in common: a follower for each of the
// actor's conversations, and membership hints about those that the actor joins and leaves.
type viewerStream struct {
	service   *Service
	actor     model.Actor
	stream    *stream
	hints     *pubsub.Subscription[MembershipHint]
	followers map[model.ConversationID]*follower
}

// openViewerStream returns a viewerStream without followers. It is subscribed to membership hints
// before this returns, so that what is read next leaves no gap.
func (s *Service) openViewerStream(actor model.Actor) *viewerStream {
	v := &viewerStream{
		service: s, actor: actor, stream: newStream(),
		followers: map[model.ConversationID]*follower{},
	}
	v.hints = s.memberships.Handle(UserTopic(actor.UserID), func(h MembershipHint) {
		v.stream.markChanged(h.ConversationID)
	})
	return v
}

func (v *viewerStream) close() {
	v.hints.Close()
	v.unfollow()
}

// unfollow detaches all followers. Membership hints still arrive.
func (v *viewerStream) unfollow() {
	for _, fo := range v.followers {
		fo.detach()
	}
	clear(v.followers)
	v.stream.drainReady()
}

// ownMembership is a membership of the actor, with the newest seq of its conversation.
type ownMembership struct {
	model.ConversationMember `bun:",extend"`
	LastSeq                  int64
	// of the event with LastSeq
	LastKind      model.EventKind
	LastMessageID *model.MessageID
	LastMark      model.Mark
}

// last returns the place of the conversation's newest event.
func (own *ownMembership) last() Place {
	return placeOf(&model.Event{
		Seq: own.LastSeq, Kind: own.LastKind, MessageID: own.LastMessageID,
		StoredMark: own.LastMark,
	})
}

// withLast joins the conversation of a membership and its newest event, for ownMembership.
func withLast(q *bun.SelectQuery) *bun.SelectQuery {
	return q.ColumnExpr("c.last_seq, coalesce(le.kind, '') AS last_kind").
		ColumnExpr("le.message_id AS last_message_id, coalesce(le.mark, 0) AS last_mark").
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").
		Join("LEFT JOIN events AS le ON le.conversation_id = c.id AND le.seq = c.last_seq")
}

// readMemberships reads the actor's memberships of some conversations; of all if only is empty. It
// retries while the database is unavailable.
func (v *viewerStream) readMemberships(
	ctx context.Context, only ...model.ConversationID,
) (found []ownMembership, err error) {
	err = store.RetryWhileUnavailable(ctx, func() error {
		found, err = v.queryMemberships(ctx, only...)
		return err
	})
	return found, err
}

func (v *viewerStream) queryMemberships(
	ctx context.Context, only ...model.ConversationID,
) (found []ownMembership, err error) {
	q := v.service.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("?TableColumns").Apply(withLast).
		Where("cm.user_id = ?", v.actor.UserID).OrderExpr("cm.conversation_id")
	if len(only) > 0 {
		q = q.Where("cm.conversation_id IN (?)", bun.List(only))
	}
	return found, store.Error(q.Scan(ctx, &found))
}

// follow adds a follower to a feed that was open before the membership was read.
func (v *viewerStream) follow(f *feed, own ownMembership, seen Place) *follower {
	fo := &follower{
		stream: v.stream, feed: f, actor: &v.actor, id: own.ConversationID,
		seen: seen, hidden: own.HiddenSeq, position: own.Position,
	}
	fo.checked.Store(own.LastSeq)
	if fo.seen.Seq == own.LastSeq {
		fo.seen = own.last()
	}
	v.followers[fo.id] = fo
	f.join(fo, own.last())
	return fo
}

// drop detaches one follower.
func (v *viewerStream) drop(fo *follower) {
	fo.detach()
	delete(v.followers, fo.id)
}

// checkMembership reads the actor's membership of a conversation after a membership hint. If the
// actor is a member and does not follow yet, it returns the membership, and the feed, which was
// open before the read; the caller must follow or release it. If the actor is not a member, it ends
// the follower, if there is one.
func (v *viewerStream) checkMembership(
	ctx context.Context, id model.ConversationID,
) (*feed, *ownMembership, error) {
	f := v.service.openFeed(id)
	found, err := v.readMemberships(ctx, id)
	fo := v.followers[id]
	if err == nil && len(found) == 1 && fo == nil {
		return f, &found[0], nil
	}
	if err == nil && len(found) == 0 && fo != nil {
		fo.remove(nil)
	}
	f.release()
	return nil, nil, err
}

// openFeeds opens the feeds of all conversations of the actor. The caller reads afterwards how far
// the conversations have come, so that no event falls between the two.
func (v *viewerStream) openFeeds(ctx context.Context) (map[model.ConversationID]*feed, error) {
	own, err := v.readMemberships(ctx)
	if err != nil {
		return nil, err
	}
	feeds := make(map[model.ConversationID]*feed, len(own))
	for _, o := range own {
		feeds[o.ConversationID] = v.service.openFeed(o.ConversationID)
	}
	return feeds, nil
}

func releaseFeeds(feeds map[model.ConversationID]*feed) {
	for _, f := range feeds {
		f.release()
	}
}
