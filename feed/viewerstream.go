package feed

import (
	"context"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/pubsub"
	"parley/store"
)

// viewerStream is what every stream over all conversations of one user has: a follower for each of
// them, and membership hints about those that the user joins and leaves.
type viewerStream struct {
	service   *Service
	actor     model.Actor
	stream    *stream
	hints     *pubsub.Subscription[MembershipHint]
	followers map[model.ConversationID]*follower
}

// openViewerStream subscribes to membership hints, before anything is read.
func (s *Service) openViewerStream(actor model.Actor) *viewerStream {
	m := &viewerStream{
		service: s, actor: actor, stream: newStream(),
		followers: map[model.ConversationID]*follower{},
	}
	m.hints = s.memberships.Handle(UserTopic(actor.UserID), func(h MembershipHint) {
		m.stream.markChanged(h.ConversationID)
	})
	return m
}

func (m *viewerStream) close() {
	m.hints.Close()
	m.unfollow()
}

// unfollow detaches all followers. Membership hints still arrive.
func (m *viewerStream) unfollow() {
	for _, fo := range m.followers {
		fo.detach()
	}
	clear(m.followers)
	m.stream.drainReady()
}

// ownMembership is a membership of the actor, with the newest seq of its conversation.
type ownMembership struct {
	model.ConversationMember `bun:",extend"`
	LastSeq                  int64
}

// readMemberships reads all memberships of the actor, or only some. It retries while the database
// is unavailable.
func (m *viewerStream) readMemberships(
	ctx context.Context, only ...model.ConversationID,
) (found []ownMembership, err error) {
	err = store.RetryWhileUnavailable(ctx, func() error {
		found, err = m.queryMemberships(ctx, only...)
		return err
	})
	return found, err
}

func (m *viewerStream) queryMemberships(
	ctx context.Context, only ...model.ConversationID,
) (found []ownMembership, err error) {
	q := m.service.db.NewSelect().Model((*model.ConversationMember)(nil)).
		ColumnExpr("?TableColumns, c.last_seq").
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").
		Where("cm.user_id = ?", m.actor.UserID).OrderExpr("cm.conversation_id")
	if len(only) > 0 {
		q = q.Where("cm.conversation_id IN (?)", bun.List(only))
	}
	return found, store.Error(q.Scan(ctx, &found))
}

// follow adds a follower to a feed that was open before the membership was read.
func (m *viewerStream) follow(f *feed, own ownMembership, seen int64) *follower {
	fo := &follower{
		stream: m.stream, feed: f, actor: &m.actor, id: own.ConversationID,
		seen: seen, hidden: own.HiddenSeq, checked: own.LastSeq, position: own.Position,
	}
	m.followers[fo.id] = fo
	f.join(fo, own.LastSeq)
	return fo
}

// drop detaches one follower.
func (m *viewerStream) drop(fo *follower) {
	fo.detach()
	delete(m.followers, fo.id)
}

// checkMembership reads the actor's membership of a conversation after a membership hint. If the
// actor is a member and does not follow yet, it returns the membership, and the feed, which was
// open before the read. If the actor is not a member, it ends the follower.
func (m *viewerStream) checkMembership(
	ctx context.Context, id model.ConversationID,
) (*feed, *ownMembership, error) {
	f := m.service.openFeed(id)
	found, err := m.readMemberships(ctx, id)
	fo := m.followers[id]
	if err == nil && len(found) == 1 && fo == nil {
		return f, &found[0], nil
	}
	if err == nil && len(found) == 0 && fo != nil {
		fo.remove(nil)
	}
	f.release()
	return nil, nil, err
}

// openFeeds opens the feeds of all conversations of the actor, before their bounds are read.
func (m *viewerStream) openFeeds(ctx context.Context) (map[model.ConversationID]*feed, error) {
	own, err := m.readMemberships(ctx)
	if err != nil {
		return nil, err
	}
	feeds := make(map[model.ConversationID]*feed, len(own))
	for _, o := range own {
		feeds[o.ConversationID] = m.service.openFeed(o.ConversationID)
	}
	return feeds, nil
}

func releaseFeeds(feeds map[model.ConversationID]*feed) {
	for _, f := range feeds {
		f.release()
	}
}
