package chat

import (
	"context"
	"fmt"
	"slices"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
)

// change is one story of changing a conversation: what it is and who asks, both as they are under
// the conversation's lock, so that whatever raced with it has either happened or waits.
type change struct {
	tx           *store.Tx
	actor        model.Actor
	conversation *model.Conversation
	member       *model.ConversationMember // the actor
}

// changing locks the conversation and runs fn; NOT_FOUND for anybody but a member. It returns the
// conversation as it is afterwards.
func (s *Service) changing(
	ctx context.Context, actor model.Actor, id model.ConversationID,
	fn func(ctx context.Context, c *change) error,
) (*model.Conversation, error) {
	var c *change
	err := s.db.InQueuedTx(ctx, id, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Lock(ctx, (*model.Conversation)(nil), "id = ?", id); err != nil {
			return err
		}
		c = &change{tx: tx, actor: actor, conversation: new(model.Conversation)}
		var err error
		if c.member, err = membership.Of(ctx, tx, actor, id); err != nil {
			return err
		}
		if err := tx.NewSelect().Model(c.conversation).Where("c.id = ?", id).Scan(ctx); err != nil {
			return err
		}
		return fn(ctx, c)
	})
	if err != nil {
		return nil, err
	}
	return c.conversation, nil
}

// record appends one event of the change.
func (s *Service) record(ctx context.Context, c *change, kind model.EventKind, data any) error {
	_, err := s.recordAbout(ctx, c, kind, nil, data)
	return err
}

// recordAbout appends one event of the change that is about a message.
func (s *Service) recordAbout(
	ctx context.Context, c *change, kind model.EventKind, m *model.Message, data any,
) (*model.Event, error) {
	e := &model.Event{
		ConversationID: c.conversation.ID, Kind: kind, ActorID: &c.actor.UserID, Message: m,
	}
	lastActivity, err := s.feed.Append(ctx, c.tx, e, data)
	if err != nil {
		return nil, err
	}
	c.conversation.LastSeq, c.conversation.LastActivityAt = e.Seq, lastActivity
	return e, nil
}

func (c *change) requireGroup() error {
	if c.conversation.Kind == model.Direct {
		return errs.New(errs.Forbidden,
			"A direct conversation has its two members and no more, and no name or roles.")
	}
	return nil
}

func (c *change) requireRole(roles ...model.Role) error {
	if err := c.requireGroup(); err != nil {
		return err
	}
	if !slices.Contains(roles, c.member.Role) {
		return errs.New(errs.Forbidden, "Your role in this conversation does not allow that.")
	}
	return nil
}

// Rename gives a conversation another title: its owner, its admins and, where the owner allows it,
// its members may.
func (s *Service) Rename(
	ctx context.Context, actor model.Actor, id model.ConversationID, title string,
) (*model.Conversation, error) {
	var problems errs.List
	if title = checkTitle(&problems, title); title == "" {
		problems.Add(errs.Required, "title", "A title is not empty.")
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		may := []model.Role{model.Owner, model.Admin}
		if c.conversation.MembersMayRename {
			may = append(may, model.Member)
		}
		if err := c.requireRole(may...); err != nil || c.conversation.Title == title {
			return err
		}
		c.conversation.Title, c.conversation.Untitled = title, false
		if _, err := c.tx.NewUpdate().Model(c.conversation).Column("title", "untitled").WherePK().
			Exec(ctx); err != nil {
			return err
		}
		return s.record(ctx, c, model.ConversationRenamed,
			model.ConversationRenamedData{Title: title})
	})
}

// UpdateConversationSettings says what members may; the owner may say so.
func (s *Service) UpdateConversationSettings(
	ctx context.Context, actor model.Actor, id model.ConversationID, membersMayRename bool,
) (*model.Conversation, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner); err != nil ||
			c.conversation.MembersMayRename == membersMayRename {
			return err
		}
		c.conversation.MembersMayRename = membersMayRename
		if _, err := c.tx.NewUpdate().Model(c.conversation).Column("members_may_rename").WherePK().
			Exec(ctx); err != nil {
			return err
		}
		return s.record(ctx, c, model.SettingsChanged,
			model.SettingsChangedData{MembersMayRename: membersMayRename})
	})
}

// AddMembers makes people members, all of them or none. The owner and the admins may, and only the
// owner may add admins.
func (s *Service) AddMembers(
	ctx context.Context, actor model.Actor, id model.ConversationID, members []*NewMember,
) (*model.Conversation, error) {
	var problems errs.List
	checkNewMembers(&problems, members)
	if len(members) > membership.Max {
		return nil, problems.Err() // refused already, and too many to look up
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID,
		ratelimit.Members.Times(max(1, len(members)))); err != nil {
		return nil, err
	}
	return s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner, model.Admin); err != nil {
			return err
		}
		problems := slices.Clone(problems) // what is found out below counts for this try only
		if err := s.checkAdded(ctx, c, &problems, members); err != nil {
			return err
		}
		if err := problems.Err(); err != nil {
			return err
		}
		for _, m := range members {
			if err := s.addMember(ctx, c, m); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkNewMembers(problems *errs.List, members []*NewMember) {
	if len(members) == 0 {
		problems.Add(errs.Required, "members", "At least one person is needed.")
	}
	if len(members) > membership.Max {
		problems.Add(errs.LimitReached, "members", "A conversation has at most %d members.",
			membership.Max)
	}
	first := map[model.UserID]int{}
	for i, m := range members {
		if j, listed := first[m.UserID]; listed {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.userId", i),
				"This person is listed already, at position %d.", j)
			continue
		}
		first[m.UserID] = i
		if m.Role == model.Owner {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.role", i),
				"A conversation has one owner; to make it another, transfer it.")
		}
	}
}

// checkAdded finds out who cannot be added.
func (s *Service) checkAdded(
	ctx context.Context, c *change, problems *errs.List, members []*NewMember,
) error {
	people, err := s.lockPeople(ctx, c.tx, idsOf(members)...)
	if err != nil {
		return err
	}
	var present []model.UserID
	err = c.tx.NewSelect().Model((*model.ConversationMember)(nil)).Column("user_id").
		Where("cm.conversation_id = ?", c.conversation.ID).
		Where(membership.NotRemoved("cm.user_id")).Scan(ctx, &present)
	if err != nil {
		return err
	}
	for i, m := range members {
		switch _, there := people.nicknames[m.UserID]; {
		case !there:
			problems.Add(errs.NotFound, fmt.Sprintf("members.%d.userId", i),
				"There is no such person.")
		case slices.Contains(present, m.UserID):
			problems.Add(errs.AlreadyMember, fmt.Sprintf("members.%d.userId", i),
				"%s is a member already.", people.nicknames[m.UserID])
		case m.Role == model.Admin && c.member.Role != model.Owner:
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.role", i),
				"Only the owner adds admins.")
		case people.full[m.UserID]:
			problems.Add(errs.LimitReached, fmt.Sprintf("members.%d.userId", i), personFull)
		}
	}
	if n := len(present) + len(members); n > membership.Max {
		problems.Add(errs.LimitReached, "members",
			"A conversation has at most %d members, and these would be %d.", membership.Max, n)
	}
	return nil
}

func (s *Service) addMember(ctx context.Context, c *change, m *NewMember) error {
	if err := s.record(ctx, c, model.MemberAdded,
		model.MemberAddedData{UserID: m.UserID, Role: m.Role}); err != nil {
		return err
	}
	row := &model.ConversationMember{
		ConversationID: c.conversation.ID, UserID: m.UserID, Role: m.Role,
		JoinedAt: c.conversation.LastActivityAt, JoinedSeq: c.conversation.LastSeq,
		LastReadSeq: c.conversation.LastSeq,
	}
	if c.conversation.History == model.FromJoining {
		row.HiddenSeq = c.conversation.LastSeq - 1
	}
	s.feed.PublishMembership(c.tx, row.ConversationID, row.UserID)
	return feed.InsertMembers(ctx, c.tx, []*model.ConversationMember{row})
}

// RemoveMember ends another's membership. The owner may remove anybody, and admins may remove
// members.
func (s *Service) RemoveMember(
	ctx context.Context, actor model.Actor, id model.ConversationID, user model.UserID,
) (*model.Conversation, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner, model.Admin); err != nil {
			return err
		}
		other, err := c.other(ctx, user)
		if err != nil {
			return err
		}
		if c.member.Role == model.Admin && other.Role != model.Member {
			return errs.New(errs.Forbidden,
				"Admins remove members, and only the owner removes admins.")
		}
		return s.endMembership(ctx, c, other)
	})
}

// other is another member of the conversation.
func (c *change) other(ctx context.Context, user model.UserID) (*model.ConversationMember, error) {
	if user == c.actor.UserID {
		return nil, errs.Input(errs.Conflict, "userId", "That is you.")
	}
	var found []*model.ConversationMember
	err := c.tx.NewSelect().Model(&found).Where("cm.conversation_id = ?", c.conversation.ID).
		Where("cm.user_id = ?", user).
		Where(membership.NotRemoved("cm.user_id")).Scan(ctx)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errs.Input(errs.NotFound, "userId", "There is no such member.")
	}
	return found[0], nil
}

func (s *Service) endMembership(ctx context.Context, c *change, m *model.ConversationMember) error {
	if _, err := c.tx.NewDelete().Model(m).WherePK().Exec(ctx); err != nil {
		return err
	}
	if err := s.record(ctx, c, model.MemberRemoved,
		model.MemberRemovedData{UserID: m.UserID}); err != nil {
		return err
	}
	return s.feed.RecordDeparture(ctx, c.tx, m.ConversationID, m.UserID, c.conversation.LastSeq)
}

// ChangeRole makes another member an admin, or an admin a member again. Only the owner may.
func (s *Service) ChangeRole(
	ctx context.Context, actor model.Actor, id model.ConversationID, user model.UserID,
	role model.Role,
) (*model.Conversation, error) {
	if role == model.Owner {
		return nil, errs.Input(errs.Conflict, "role",
			"A conversation has one owner; to make it another, transfer it.")
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner); err != nil {
			return err
		}
		other, err := c.other(ctx, user)
		if err != nil || other.Role == role {
			return err
		}
		return s.setRole(ctx, c, other, role)
	})
}

func (s *Service) setRole(
	ctx context.Context, c *change, m *model.ConversationMember, role model.Role,
) error {
	if _, err := c.tx.NewUpdate().Model(m).Set("role = ?", role).WherePK().Exec(ctx); err != nil {
		return err
	}
	return s.record(ctx, c, model.MemberRoleChanged,
		model.MemberRoleChangedData{UserID: m.UserID, Role: role})
}

// TransferOwnership makes another member the owner, and the one who was an admin.
func (s *Service) TransferOwnership(
	ctx context.Context, actor model.Actor, id model.ConversationID, user model.UserID,
) (*model.Conversation, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner); err != nil {
			return err
		}
		other, err := c.other(ctx, user)
		if err != nil {
			return err
		}
		// In this order: the database holds that there are never two.
		if err := s.setRole(ctx, c, c.member, model.Admin); err != nil {
			return err
		}
		return s.setRole(ctx, c, other, model.Owner)
	})
}

// Leave ends the actor's own membership. The owner transfers the conversation first, unless alone
// in it: then it ends.
func (s *Service) Leave(ctx context.Context, actor model.Actor, id model.ConversationID) error {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return err
	}
	_, err := s.changing(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireGroup(); err != nil {
			return err
		}
		if c.member.Role != model.Owner {
			return s.endMembership(ctx, c, c.member)
		}
		members, err := c.tx.NewSelect().Model((*model.ConversationMember)(nil)).
			Where("cm.conversation_id = ?", c.conversation.ID).
			Where(membership.NotRemoved("cm.user_id")).Count(ctx)
		if err != nil {
			return err
		}
		if members > 1 {
			return errs.Input(errs.OwnerRequired, "conversationId",
				"A conversation needs an owner: transfer it to somebody first.")
		}
		if err := s.endConversation(ctx, c.tx, id); err != nil {
			return err
		}
		return s.feed.RecordDeparture(ctx, c.tx, id, actor.UserID, c.conversation.LastSeq+1)
	})
	return err
}

// OpenDirect finds the conversation of the actor and another person, or starts it: one for each
// pair, whoever opens it.
func (s *Service) OpenDirect(
	ctx context.Context, actor model.Actor, user model.UserID,
) (*model.Conversation, error) {
	if user == actor.UserID {
		return nil, errs.Input(errs.Conflict, "userId", "That is you.")
	}
	c, err := directByKey(ctx, s.db, actor.UserID, user)
	if err != nil || c != nil {
		return c, store.Error(err)
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Conversations.Times(1)); err != nil {
		return nil, err
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		people, err := s.lockPeople(ctx, tx, actor.UserID, user)
		if err != nil {
			return err
		}
		// Under the locks, which the other takes too to open it.
		if c, err = directByKey(ctx, tx, actor.UserID, user); err != nil || c != nil {
			return err
		}
		if err := s.requireVerified(ctx, tx, actor); err != nil {
			return err
		}
		if _, there := people.nicknames[actor.UserID]; !there {
			return errNoAccount
		}
		switch _, there := people.nicknames[user]; {
		case !there:
			return errs.Input(errs.NotFound, "userId", "There is no such person.")
		case people.full[actor.UserID]:
			return s.errFull()
		case people.full[user]:
			return errs.Input(errs.LimitReached, "userId", personFull)
		}
		c = &model.Conversation{
			ID: model.NewConversationID(), Kind: model.Direct,
			DirectKey: new(directKey(actor.UserID, user)), History: model.FromStart, LastSeq: 1,
			CreatedAt: tx.Now, LastActivityAt: tx.Now,
		}
		return s.insertConversation(ctx, tx, actor, c, []model.MemberData{
			{UserID: actor.UserID, Role: model.Member}, {UserID: user, Role: model.Member},
		})
	})
	if err != nil {
		return nil, store.Error(err)
	}
	return c, nil
}

func directKey(a, b model.UserID) string {
	ids := []string{a.String(), b.String()}
	slices.Sort(ids)
	return ids[0] + " " + ids[1]
}

// directByKey returns nil if there is none, or if an account of the two is being removed.
func directByKey(ctx context.Context, db bun.IDB, a, b model.UserID) (*model.Conversation, error) {
	var found []*model.Conversation
	err := db.NewSelect().Model(&found).Where("c.direct_key = ?", directKey(a, b)).
		Where(membership.NotRemoved("?"), a).Where(membership.NotRemoved("?"), b).Scan(ctx)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}
