package chat

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// watchPresences hands signs on to those who want to know, and compares with the database, until
// ctx ends.
func (s *Service) watchPresences(ctx context.Context) {
	tick := time.NewTicker(s.opts.CompareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.watches.bell:
			s.watches.pass()
			continue
		case <-s.watches.miss:
		case <-tick.C:
		}
		// the next tick repairs what this should have
		if err := s.comparePresences(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("cannot compare who is online with the database", "error", err)
		}
	}
}

// presencesCompared is what a round leaves to the next one.
type presencesCompared struct {
	begun   bool  // there has been one since somebody watches
	horizon int64 // read before the rest was
	joined  map[model.MemberID]beginning
}

// beginning is that of a membership.
type beginning struct {
	seq int64
	at  time.Time
}

// comparePresences is one round: nodes that are dead are given up, and the watches are told of
// everything that has an effect on somebody's presence and has changed since the round before.
func (s *Service) comparePresences(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, presencePatience)
	defer cancel()
	if err := s.giveUp(ctx); err != nil {
		return err
	}
	before := s.watches.compared
	if len(s.watches.all()) == 0 {
		s.watches.compared = presencesCompared{}
		return nil
	}
	horizon, err := s.horizon(ctx)
	if err != nil {
		return err
	}
	now := presencesCompared{begun: true, horizon: horizon, joined: before.joined}
	if !before.begun {
		now.joined = map[model.MemberID]beginning{}
		for _, w := range s.watches.all() { // what has happened since they began is not known
			w.markAll()
		}
		s.watches.compared = now
		return nil
	}
	if err := s.compareSightings(ctx, before.horizon); err != nil {
		return err
	}
	if err := s.compareHidden(ctx); err != nil {
		return err
	}
	if err := s.compareMemberships(ctx, before.horizon, now.joined); err != nil {
		return err
	}
	s.watches.lookAgain()
	s.watches.compared = now
	return nil
}

func (s *Service) compareSightings(ctx context.Context, since int64) error {
	var users []model.UserID
	err := s.db.NewSelect().Model((*model.Sighting)(nil)).Column("user_id").Where("sg.position >= ?", since).Scan(ctx, &users)
	s.watches.mark(setOf(users))
	return store.Error(err)
}

func setOf(users []model.UserID) map[model.UserID]bool {
	set := make(map[model.UserID]bool, len(users))
	for _, user := range users {
		set[user] = true
	}
	return set
}

// compareHidden tells of those who hide now, or do no longer.
func (s *Service) compareHidden(ctx context.Context) error {
	var users []model.UserID
	err := s.db.NewSelect().Model((*model.User)(nil)).Column("id").Where("NOT u.show_presence").Scan(ctx, &users)
	if err != nil {
		return store.Error(err)
	}
	hidden := setOf(users)
	for _, w := range s.watches.all() {
		w.markHiders(hidden)
	}
	return nil
}

func (s *Service) membersOf(
	ctx context.Context, conversations []model.ConversationID,
) (map[model.ConversationID][]model.UserID, error) {
	if len(conversations) == 0 {
		return nil, nil
	}
	var found []model.ConversationMember
	err := s.db.NewSelect().Model(&found).Column("conversation_id", "user_id").
		Where("cm.conversation_id IN (?)", bun.List(conversations)).Scan(ctx)
	members := map[model.ConversationID][]model.UserID{}
	for _, m := range found {
		members[m.ConversationID] = append(members[m.ConversationID], m.UserID)
	}
	return members, store.Error(err)
}

// joinedLately is for how long a membership counts as new: longer than clocks differ and
// transactions take. Most of those that have changed have not begun since the last round, but are
// read further.
const joinedLately = 5 * time.Minute

// compareMemberships has those look at each other who share a conversation since a position, or do
// no longer. joined has the memberships of which that is done.
func (s *Service) compareMemberships(ctx context.Context, since int64, joined map[model.MemberID]beginning) error {
	now := s.db.Now()
	var begun []model.ConversationMember
	err := s.db.NewSelect().Model(&begun).Column("conversation_id", "user_id", "joined_seq", "joined_at").
		Where("cm.position >= ?", since).Where("cm.joined_at > ?", now.Add(-joinedLately)).Scan(ctx)
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
	if err := s.acquaint(ctx, changed); err != nil {
		return err
	}
	for _, m := range begun {
		joined[m.ID()] = beginning{m.JoinedSeq, m.JoinedAt}
	}
	for id, b := range joined {
		if now.Sub(b.at) > 2*joinedLately {
			delete(joined, id)
		}
	}
	return nil
}

// acquaint has the members of conversations look at those who have come or gone, and these at the
// members.
func (s *Service) acquaint(ctx context.Context, changed map[model.ConversationID][]model.UserID) error {
	conversations := make([]model.ConversationID, 0, len(changed))
	for id := range changed {
		conversations = append(conversations, id)
	}
	members, err := s.membersOf(ctx, conversations)
	if err != nil {
		return err
	}
	watches := s.watches.byUser()
	for id, users := range changed {
		for _, member := range members[id] {
			for _, w := range watches[member] {
				w.markNew(users)
			}
		}
		for _, user := range users {
			for _, w := range watches[user] {
				w.markNew(members[id])
			}
		}
	}
	return nil
}
