package chat

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/feed"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
)

// change is a transaction that changes a conversation. It holds the conversation's lock, so nothing
// else changes the conversation or its members until it ends.
type change struct {
	tx           *store.Tx
	actor        model.Actor
	conversation *model.Conversation       // read after the lock was taken
	member       *model.ConversationMember // the actor's membership, read after the lock was taken
}

// The messages of log lines about what a restored backup would bring back. They have ids only.
// `parley restored` looks for them.
const (
	MessageDeletedLog    = "message deleted"
	MemberRemovedLog     = "member removed"
	ConversationEndedLog = "conversation ended"
)

// logAfterCommit logs that the actor has changed the conversation.
func (c *change) logAfterCommit(log *slog.Logger, message string, args ...any) {
	args = append([]any{"conversation", c.conversation.ID, "by", c.actor.UserID}, args...)
	c.tx.AfterCommit(func() { log.Info(message, args...) }) //nolint:sloglint // one of the above
}

// changeConversation locks a conversation, runs fn, and returns the changed conversation. NOT_FOUND
// for non-members.
func (s *Service) changeConversation(
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

// recordAbout appends one event of the change, about a message.
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
			"A direct conversation has no title and no roles, and its members do not change.")
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

// Rename gives a conversation a new title. The owner and the admins may do so, and the members if
// the owner allows it.
func (s *Service) Rename(
	ctx context.Context, actor model.Actor, id model.ConversationID, title string,
) (*model.Conversation, error) {
	var problems errs.List
	if title = checkTitle(&problems, title); title == "" {
		problems.Add(errs.Required, "title", "The title is empty.")
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
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

// UpdateConversationSettings sets what members may do. Only the owner may call it.
func (s *Service) UpdateConversationSettings(
	ctx context.Context, actor model.Actor, id model.ConversationID, membersMayRename bool,
) (*model.Conversation, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
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

// AddMembers adds all of the users to a conversation, or none. The owner and the admins may do so,
// and only the owner may add admins.
func (s *Service) AddMembers(
	ctx context.Context, actor model.Actor, id model.ConversationID, members []*NewMember,
) (*model.Conversation, error) {
	var problems errs.List
	checkNewMembers(&problems, members)
	if len(members) > membership.Max {
		return nil, problems.Err() // checkNewMembers refused it; the list is too long to look up
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID,
		ratelimit.Members.Times(max(1, len(members)))); err != nil {
		return nil, err
	}
	return s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner, model.Admin); err != nil {
			return err
		}
		problems := slices.Clone(problems) // a retry of the transaction starts with these again
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
		problems.Add(errs.Required, "members", "Give at least one person to add.")
	}
	if len(members) > membership.Max {
		problems.Add(errs.LimitReached, "members", "A conversation has at most %d members.",
			membership.Max)
	}
	first := map[model.UserID]int{}
	for i, m := range members {
		if j, listed := first[m.UserID]; listed {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.userId", i),
				"This person is already listed at index %d.", j)
			continue
		}
		first[m.UserID] = i
		if m.Role == model.Owner {
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.role", i),
				"A conversation has one owner. Use transferOwnership to change it.")
		}
	}
}

// checkAdded adds a problem for each user who cannot be added.
func (s *Service) checkAdded(
	ctx context.Context, c *change, problems *errs.List, members []*NewMember,
) error {
	candidates, err := s.lockAccounts(ctx, c.tx, idsOf(members)...)
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
		switch _, there := candidates.nicknames[m.UserID]; {
		case !there:
			problems.Add(errs.NotFound, fmt.Sprintf("members.%d.userId", i),
				"There is no such person.")
		case slices.Contains(present, m.UserID):
			problems.Add(errs.AlreadyMember, fmt.Sprintf("members.%d.userId", i),
				"%s is already a member.", candidates.nicknames[m.UserID])
		case m.Role == model.Admin && c.member.Role != model.Owner:
			problems.Add(errs.Conflict, fmt.Sprintf("members.%d.role", i),
				"Only the owner can add admins.")
		case candidates.full[m.UserID]:
			problems.Add(errs.LimitReached, fmt.Sprintf("members.%d.userId", i), personFull)
		}
	}
	if n := len(present) + len(members); n > membership.Max {
		problems.Add(errs.LimitReached, "members",
			"A conversation has at most %d members, but this one would have %d.", membership.Max, n)
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

// RemoveMember ends the membership of another user. The owner may remove any other member, and
// admins may remove members who are not admins.
func (s *Service) RemoveMember(
	ctx context.Context, actor model.Actor, id model.ConversationID, user model.UserID,
) (*model.Conversation, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner, model.Admin); err != nil {
			return err
		}
		other, err := c.other(ctx, user)
		if err != nil {
			return err
		}
		if c.member.Role == model.Admin && other.Role != model.Member {
			return errs.New(errs.Forbidden,
				"Only the owner can remove admins.")
		}
		return s.endMembership(ctx, c, other)
	})
}

// other returns a member of the conversation other than the actor.
func (c *change) other(ctx context.Context, user model.UserID) (*model.ConversationMember, error) {
	if user == c.actor.UserID {
		return nil, errs.Input(errs.Conflict, "userId", "That is your own account.")
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
	c.logAfterCommit(s.opts.Log, MemberRemovedLog, "user", m.UserID)
	return s.feed.RecordDeparture(ctx, c.tx, m.ConversationID, m.UserID, c.conversation.LastSeq)
}

// ChangeRole makes a member an admin, or an admin a member. Only the owner may call it.
func (s *Service) ChangeRole(
	ctx context.Context, actor model.Actor, id model.ConversationID, user model.UserID,
	role model.Role,
) (*model.Conversation, error) {
	if role == model.Owner {
		return nil, errs.Input(errs.Conflict, "role",
			"A conversation has one owner. Use transferOwnership to change it.")
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
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

// TransferOwnership makes another member the owner, and the previous owner an admin.
func (s *Service) TransferOwnership(
	ctx context.Context, actor model.Actor, id model.ConversationID, user model.UserID,
) (*model.Conversation, error) {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return nil, err
	}
	return s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
		if err := c.requireRole(model.Owner); err != nil {
			return err
		}
		other, err := c.other(ctx, user)
		if err != nil {
			return err
		}
		// In this order, because a unique index allows one owner at a time.
		if err := s.setRole(ctx, c, c.member, model.Admin); err != nil {
			return err
		}
		return s.setRole(ctx, c, other, model.Owner)
	})
}

// Leave ends the actor's own membership. An owner must transfer the conversation first. If the
// owner is the only member, the conversation ends.
func (s *Service) Leave(ctx context.Context, actor model.Actor, id model.ConversationID) error {
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Changes.Times(1)); err != nil {
		return err
	}
	_, err := s.changeConversation(ctx, actor, id, func(ctx context.Context, c *change) error {
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
				"A conversation needs an owner: transfer it to another member first.")
		}
		if err := s.endConversation(ctx, c.tx, id); err != nil {
			return err
		}
		c.logAfterCommit(s.opts.Log, ConversationEndedLog)
		return s.feed.RecordDeparture(ctx, c.tx, id, actor.UserID, c.conversation.LastSeq+1)
	})
	return err
}

// OpenDirect returns the direct conversation of the actor and another user, and creates it if it
// does not exist. Each pair has one, whichever of them opens it.
func (s *Service) OpenDirect(
	ctx context.Context, actor model.Actor, user model.UserID,
) (*model.Conversation, error) {
	if user == actor.UserID {
		return nil, errs.Input(errs.Conflict, "userId", "That is your own account.")
	}
	c, err := directByKey(ctx, s.db, actor.UserID, user)
	if err != nil || c != nil {
		return c, store.Error(err)
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Conversations.Times(1)); err != nil {
		return nil, err
	}
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		candidates, err := s.lockAccounts(ctx, tx, actor.UserID, user)
		if err != nil {
			return err
		}
		// This time under the locks, which the other user's call takes as well.
		if c, err = directByKey(ctx, tx, actor.UserID, user); err != nil || c != nil {
			return err
		}
		if err := s.requireVerified(ctx, tx, actor); err != nil {
			return err
		}
		if _, there := candidates.nicknames[actor.UserID]; !there {
			return errNoAccount
		}
		switch _, there := candidates.nicknames[user]; {
		case !there:
			return errs.Input(errs.NotFound, "userId", "There is no such person.")
		case candidates.full[actor.UserID]:
			return s.errFull()
		case candidates.full[user]:
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

// directByKey returns the direct conversation of a pair. It returns nil if there is none, or if one
// of the two accounts is being removed.
func directByKey(ctx context.Context, db bun.IDB, a, b model.UserID) (*model.Conversation, error) {
	var found []*model.Conversation
	err := db.NewSelect().Model(&found).Where("c.direct_key = ?", directKey(a, b)).
		Where(membership.NotRemoved("?"), a).Where(membership.NotRemoved("?"), b).Scan(ctx)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}
