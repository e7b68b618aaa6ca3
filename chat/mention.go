package chat

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
	"parley/text"
)

const (
	// maxMentioned is how many places of a message are looked at for a name.
	maxMentioned = 100
	// maxName is how many code points of what follows an @ may be a nickname.
	maxName = 32
)

// insertMentions finds out whom of the members a message names, as it is edited: a later change of the nickname changes nothing.
func insertMentions(ctx context.Context, tx *store.Tx, m *model.Message) error {
	candidates := mentionCandidates(m.Content)
	if len(candidates) == 0 {
		return nil
	}
	var keys []string
	for _, names := range candidates {
		keys = append(keys, names...)
	}
	var members []model.User
	err := tx.NewSelect().Model(&members).Column("id", "nickname_key").
		Join("JOIN conversation_members AS cm ON cm.user_id = u.id").Where("cm.conversation_id = ?", m.ConversationID).
		Where("u.nickname_key IN (?)", bun.List(keys)).Scan(ctx)
	if err != nil || len(members) == 0 {
		return err
	}
	byKey := make(map[string]model.UserID, len(members))
	for _, u := range members {
		byKey[u.NicknameKey] = u.ID
	}
	mentions := mentionsOf(m, candidates, func(name string) (model.UserID, bool) {
		id, there := byKey[name]
		return id, there
	})
	_, err = tx.NewInsert().Model(&mentions).Exec(ctx)
	return err
}

// mentionsOf lists the members whom a message names, each once. who finds the member of a name.
func mentionsOf(
	m *model.Message, candidates [][]string, who func(name string) (model.UserID, bool),
) (mentions []*model.Mention) {
	mentioned := map[model.UserID]bool{}
	for _, names := range candidates {
		for _, name := range names {
			id, there := who(name)
			if !there {
				continue
			}
			if !mentioned[id] {
				mentioned[id] = true
				mentions = append(mentions, &model.Mention{
					ConversationID: m.ConversationID, UserID: id, Seq: m.Seq, MessageID: m.ID,
				})
			}
			break // the longest name counts
		}
	}
	return mentions
}

func deleteMentions(ctx context.Context, tx *store.Tx, m *model.Message) error {
	_, err := tx.NewDelete().Model((*model.Mention)(nil)).Where("message_id = ?", m.ID).Exec(ctx)
	return err
}

// mentionCandidates lists, for each @ that begins a word, what may be a nickname after it: folded, the longest first. Nicknames
// may have spaces and signs in them, so each end of a word within reach may be the end of the name.
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
	err := s.db.NewSelect().Model(&found).Apply(sharedWith(actor, "mn.conversation_id")).Where("mn.seq > viewer.hidden_seq").
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
