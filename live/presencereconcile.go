package live

import (
	"context"
	"time"

	"parley/membership"
	"parley/model"
	"parley/store"
)

// runPresence delivers signals to the watches of presence, and reconciles them with the database,
// until ctx ends.
func (s *Service) runPresence(ctx context.Context) {
	tick := time.NewTicker(s.opts.ReconcileEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.watches.signals.C():
			s.watches.deliverSignals()
			continue
		case <-s.watches.lost.C():
		case <-tick.C:
		}
		// If it fails, the next tick tries again.
		if err := s.reconcilePresence(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("cannot reconcile presence with the database; retrying", "error", err)
		}
	}
}

// presenceRound is what a round of reconciling leaves to the next one.
type presenceRound struct {
	// there has been a round since the first watch began
	started      bool
	lowWatermark int64                              // read before everything else
	joined       map[model.MemberID]membershipStart // new memberships that are reconciled
}

// membershipStart is the beginning of a membership.
type membershipStart struct {
	seq int64
	at  time.Time
}

// reconcilePresence is one round: it reaps dead nodes, and marks in the watches the users whose
// presence, or who may know it, has changed since the round before.
func (s *Service) reconcilePresence(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	if err := s.reapNodes(ctx); err != nil {
		return err
	}
	before := s.presence
	if len(s.watches.all()) == 0 {
		s.presence = presenceRound{}
		return nil
	}
	low, err := s.feed.LowWatermark(ctx)
	if err != nil {
		return err
	}
	now := presenceRound{started: true, lowWatermark: low, joined: before.joined}
	if !before.started {
		now.joined = map[model.MemberID]membershipStart{}
		for _, w := range s.watches.all() { // changes since they began may be missed
			w.markAllDirty()
		}
		s.presence = now
		return nil
	}
	if err := s.reconcileSightings(ctx, before.lowWatermark); err != nil {
		return err
	}
	if err := s.reconcileHidden(ctx); err != nil {
		return err
	}
	if err := s.reconcilePairs(ctx, before.lowWatermark, now.joined); err != nil {
		return err
	}
	s.watches.reread()
	s.presence = now
	return nil
}

// reconcileSightings marks the users who have come or gone at or above a position.
func (s *Service) reconcileSightings(ctx context.Context, since int64) error {
	var users []model.UserID
	err := s.db.NewSelect().Model((*model.Sighting)(nil)).Column("user_id").
		Where("sg.position >= ?", since).Scan(ctx, &users)
	s.watches.markKnownDirty(setOf(users))
	return store.Error(err)
}

// reconcileHidden marks the users who have changed whether they show their presence.
func (s *Service) reconcileHidden(ctx context.Context) error {
	var users []model.UserID
	err := s.db.NewSelect().Model((*model.User)(nil)).Column("id").
		Where("NOT u.show_presence").Scan(ctx, &users)
	if err != nil {
		return store.Error(err)
	}
	hidden := setOf(users)
	for _, w := range s.watches.all() {
		w.reconcileHidden(hidden)
	}
	return nil
}

// newMembership is how long a membership counts as new: longer than clocks differ and transactions
// take. Most memberships that have changed above a position are not new: their row also changes
// with read state, for example.
const newMembership = 5 * time.Minute

// reconcilePairs marks pairs of users who have started or stopped sharing a conversation at or
// above a position. joined has the new memberships for which that is done.
func (s *Service) reconcilePairs(
	ctx context.Context, since int64, joined map[model.MemberID]membershipStart,
) error {
	now := s.db.Now()
	var begun []model.ConversationMember
	err := s.db.NewSelect().Model(&begun).
		Column("conversation_id", "user_id", "joined_seq", "joined_at").
		Where("cm.position >= ?", since).Where("cm.joined_at > ?", now.Add(-newMembership)).
		Scan(ctx)
	if err != nil {
		return store.Error(err)
	}
	var ended []model.Departure
	err = s.db.NewSelect().Model(&ended).Where("d.position >= ?", since).Scan(ctx)
	if err != nil {
		return store.Error(err)
	}
	changed := map[model.ConversationID][]model.UserID{}
	for _, m := range begun {
		if joined[m.ID()].seq != m.JoinedSeq {
			changed[m.ConversationID] = append(changed[m.ConversationID], m.UserID)
		}
	}
	for _, d := range ended {
		changed[d.ConversationID] = append(changed[d.ConversationID], d.UserID)
	}
	if err := s.refreshPairs(ctx, changed); err != nil {
		return err
	}
	for _, m := range begun {
		joined[m.ID()] = membershipStart{m.JoinedSeq, m.JoinedAt}
	}
	for id, start := range joined {
		if now.Sub(start.at) > 2*newMembership {
			delete(joined, id)
		}
	}
	return nil
}

// refreshPairs marks the users who have joined or left a conversation in the watches of its
// members, and the members in the watches of those users.
func (s *Service) refreshPairs(
	ctx context.Context, changed map[model.ConversationID][]model.UserID,
) error {
	conversations := make([]model.ConversationID, 0, len(changed))
	for id := range changed {
		conversations = append(conversations, id)
	}
	members, err := membership.UserIDs(ctx, s.db, conversations)
	if err != nil {
		return err
	}
	watches := s.watches.byUser()
	for id, users := range changed {
		for _, member := range members[id] {
			for _, w := range watches[member] {
				w.markDirty(users)
			}
		}
		for _, user := range users {
			for _, w := range watches[user] {
				w.markDirty(members[id])
			}
		}
	}
	return nil
}
