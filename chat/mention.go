package chat

import (
	"context"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/uptrace/bun"

	"parley/membership"
	"parley/model"
	"parley/store"
	"parley/text"
)

const (
	// maxMentioned is how many places of a message are looked at for a name.
	maxMentioned = 100
	// maxName is how many code points of what follows an @ may be a nickname.
	maxName = 32
	// maxLookedUp is how many names of one message are looked up one by one. A message can have
	// thousands, a conversation no more members than membership.Max: beyond this, it is the members
	// that are gone through.
	maxLookedUp = 16
)

// insertMentions finds out whom of the members a message names, as it is edited: a later change of
// the nickname changes nothing.
func insertMentions(ctx context.Context, tx *store.Tx, actor model.Actor, m *model.Message) error {
	names := mentionCandidates(m.Content)
	members, err := membersNamed(ctx, tx, actor, m.ConversationID, names)
	if err != nil {
		return err
	}
	var mentions []*model.Mention
	for _, id := range mentioned(names, members) {
		mentions = append(mentions, &model.Mention{
			ConversationID: m.ConversationID, UserID: id,
			Seq: m.Seq, MessageID: m.ID,
		})
	}
	if len(mentions) == 0 {
		return nil
	}
	_, err = tx.NewInsert().Model(&mentions).Exec(ctx)
	return err
}

// sift leaves of the names of a message, where they are many, those that members have now. It is
// done before the transaction that stores the message, which others wait for too, and which looks
// at what is left once more. So what a message costs them does not depend on how many names its
// author makes up. Whoever takes a name, or joins, at this very moment is not mentioned.
func (s *Service) sift(ctx context.Context, actor model.Actor, o *outgoing) error {
	if len(distinctNames(o.names)) <= maxLookedUp {
		return nil
	}
	members, err := membersNamed(ctx, s.db, actor, o.message.ConversationID, o.names)
	if err != nil {
		return store.Error(err)
	}
	for i, names := range o.names {
		o.names[i] = slices.DeleteFunc(names, func(name string) bool {
			_, there := members[name]
			return !there
		})
	}
	return nil
}

// membersNamed finds, by name, members who have one of the names; nobody where the actor is no
// member. It may find others too.
func membersNamed(
	ctx context.Context, db bun.IDB, actor model.Actor, id model.ConversationID, names [][]string,
) (map[string]model.UserID, error) {
	keys := distinctNames(names)
	if len(keys) == 0 {
		return nil, nil
	}
	var members []model.User
	q := db.NewSelect().Model(&members).Column("u.id", "u.nickname_key").
		Join("JOIN conversation_members AS cm ON cm.user_id = u.id").
		Where("cm.conversation_id = ?", id).
		Apply(membership.Shared(actor, "cm.conversation_id"))
	if len(keys) <= maxLookedUp {
		q = q.Where("u.nickname_key IN (?)", bun.List(slices.Collect(maps.Keys(keys))))
	}
	if err := q.Scan(ctx); err != nil {
		return nil, err
	}
	byName := make(map[string]model.UserID, len(members))
	for _, u := range members {
		byName[u.NicknameKey] = u.ID
	}
	return byName, nil
}

func distinctNames(names [][]string) map[string]bool {
	distinct := map[string]bool{}
	for _, some := range names {
		for _, name := range some {
			distinct[name] = true
		}
	}
	return distinct
}

// mentioned lists whom the names of a message stand for, each once. Of what one place may be, the
// longest counts.
func mentioned(names [][]string, members map[string]model.UserID) (ids []model.UserID) {
	listed := map[model.UserID]bool{}
	for _, some := range names {
		for _, name := range some {
			id, there := members[name]
			if !there {
				continue
			}
			if !listed[id] {
				listed[id] = true
				ids = append(ids, id)
			}
			break
		}
	}
	return ids
}

func deleteMentions(ctx context.Context, tx *store.Tx, m *model.Message) error {
	_, err := tx.NewDelete().Model((*model.Mention)(nil)).Where("message_id = ?", m.ID).Exec(ctx)
	return err
}

// mentionCandidates lists, for each @ that begins a word, what may be a nickname after it: folded,
// the longest first. Nicknames may have spaces and signs in them, so each end of a word within
// reach may be the end of the name.
func mentionCandidates(content string) (candidates [][]string) {
	before := ' '
	for i, r := range content {
		if r == '@' && !inName(before) {
			if names := namesAt(content[i+1:]); names != nil {
				candidates = append(candidates, names)
			}
			if len(candidates) == maxMentioned {
				break
			}
		}
		before = r
	}
	return candidates
}

func namesAt(s string) (names []string) {
	if first, _ := utf8.DecodeRuneInString(s); unicode.IsSpace(first) {
		return nil
	}
	count := 0
	for i := range s {
		if r, _ := utf8.DecodeRuneInString(s[i:]); count > 0 && !inName(r) {
			names = prepend(names, s[:i])
		}
		if count++; count > maxName {
			return names
		}
	}
	return prepend(names, s)
}

func prepend(names []string, name string) []string {
	if name = text.Fold(strings.TrimSpace(name)); name == "" || len(names) > 0 && names[0] == name {
		return names
	}
	return append([]string{name}, names...)
}

// inName reports whether r continues a word.
func inName(r rune) bool { return r == '_' || unicode.In(r, unicode.L, unicode.M, unicode.N) }

// Mentioned returns whom each of the messages mentions that the actor may see.
func (s *Service) Mentioned(
	ctx context.Context, actor model.Actor, ids []model.MessageID,
) (map[model.MessageID][]model.UserID, error) {
	var found []*model.Mention
	err := s.db.NewSelect().Model(&found).Apply(membership.Shared(actor, "mn.conversation_id")).
		Where("mn.seq > viewer.hidden_seq").
		Where("mn.message_id IN (?)", bun.List(ids)).OrderExpr("mn.user_id").Scan(ctx)
	if err != nil {
		return nil, store.Error(err)
	}
	byMessage := map[model.MessageID][]model.UserID{}
	for _, m := range found {
		byMessage[m.MessageID] = append(byMessage[m.MessageID], m.UserID)
	}
	return byMessage, nil
}
