package chat_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"parley/chat/chattest"
	"parley/model"
)

// told is the state of a conversation as its log tells it.
type told struct {
	Title       string
	MayRename   bool
	History     model.History
	LastSeq     int64
	LastMessage int64
	Active      time.Time
	Members     map[string]toldMember
	Messages    map[int64]*toldMessage // by seq
}

type toldMember struct {
	Role      model.Role
	JoinedSeq int64
	HiddenSeq int64
	JoinedAt  time.Time
}

type toldMessage struct {
	ID        model.MessageID
	Author    string
	At        time.Time
	EditedAt  *time.Time
	DeletedAt *time.Time
	Reactions map[string][]string // who, by emoji
	Mentioned []string
	Content   string

	audience map[string]bool // who was a member when the content was written
}

// wantLogTells replays the events of a conversation, and compares with what the tables hold.
// Nicknames have to be one word each, and to be of this world.
func (w *fixture) wantLogTells(t *testing.T, id model.ConversationID) {
	t.Helper()
	log := w.replay(t, id)
	log.findMentions(w)
	tables := w.readTables(t, id)
	chattest.WantEqual(t, "what the log tells (+) of what the tables hold (-)", tables, log,
		cmpopts.IgnoreUnexported(toldMessage{}))
}

func (w *fixture) replay(t *testing.T, id model.ConversationID) *told {
	t.Helper()
	s := &told{Members: map[string]toldMember{}, Messages: map[int64]*toldMessage{}}
	byID := map[model.MessageID]*toldMessage{}
	for i, e := range w.Stored(id) {
		if e.Seq != int64(i)+1 {
			t.Fatalf("seq %d stands at place %d", e.Seq, i+1)
		}
		s.LastSeq = e.Seq
		var m *toldMessage
		if e.MessageID != nil {
			m = byID[*e.MessageID]
			if e.Message == nil {
				t.Fatalf("event %d is about a message that is not there", e.Seq)
			}
		}
		switch e.Kind {
		case model.MessageAdded:
			m = &toldMessage{
				ID: *e.MessageID, Author: w.name(e.ActorID), At: e.At, Content: e.Message.Content,
				Reactions: map[string][]string{}, audience: s.audience(),
			}
			byID[m.ID], s.Messages[e.Seq], s.LastMessage = m, m, e.Seq
			s.Active = later(s.Active, e.At)
		case model.MessageEdited:
			if m.DeletedAt != nil {
				t.Errorf("seq %d edits a message that is deleted", e.Seq)
			}
			m.EditedAt, m.audience = &e.At, s.audience()
		case model.MessageDeleted:
			if m.DeletedAt != nil {
				t.Errorf("seq %d deletes a message again", e.Seq)
			}
			m.DeletedAt, m.Reactions = &e.At, map[string][]string{}
		case model.ReactionAdded, model.ReactionRemoved:
			w.replayReaction(t, m, e)
		default:
			s.replayMembers(t, w, e)
			s.Active = later(s.Active, e.At)
		}
	}
	return s
}

func (w *fixture) replayReaction(t *testing.T, m *toldMessage, e *model.Event) {
	t.Helper()
	var data model.ReactionData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if m.DeletedAt != nil {
		t.Errorf("seq %d is a reaction to a message that is deleted", e.Seq)
	}
	who, name := m.Reactions[data.Emoji], w.name(&data.UserID)
	switch there := slices.Contains(who, name); {
	case there == (e.Kind == model.ReactionAdded):
		t.Errorf("seq %d changes nothing: %s %s by %s", e.Seq, e.Kind, data.Emoji, name)
	case there:
		who = slices.DeleteFunc(who, func(other string) bool { return other == name })
	default:
		who = append(who, name)
	}
	slices.Sort(who)
	m.Reactions[data.Emoji] = who
	if len(who) == 0 {
		delete(m.Reactions, data.Emoji)
	}
	if data.Count != len(who) {
		t.Errorf("seq %d tells of %d %s where there are %d", e.Seq, data.Count, data.Emoji,
			len(who))
	}
}

func (s *told) replayMembers(t *testing.T, w *fixture, e *model.Event) {
	t.Helper()
	var data struct {
		Title            *string
		MembersMayRename *bool
		History          model.History
		Members          []model.MemberData
		model.MemberData
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	if data.Title != nil {
		s.Title = *data.Title
	}
	if data.MembersMayRename != nil {
		s.MayRename = *data.MembersMayRename
	}
	name := w.name(&data.UserID)
	switch e.Kind { //nolint:exhaustive // the rest is about no member
	case model.ConversationCreated:
		s.History = data.History
		for _, m := range data.Members {
			s.Members[w.name(&m.UserID)] = toldMember{m.Role, e.Seq, 0, e.At}
		}
	case model.MemberAdded:
		if _, there := s.Members[name]; there {
			t.Errorf("seq %d adds %s again", e.Seq, name)
		}
		hidden := int64(0)
		if s.History == model.FromJoining {
			hidden = e.Seq - 1
		}
		s.Members[name] = toldMember{data.Role, e.Seq, hidden, e.At}
	case model.MemberRoleChanged:
		m, there := s.Members[name]
		if !there || m.Role == data.Role {
			t.Errorf("seq %d makes %s a %s, who is %+v", e.Seq, name, data.Role, m)
		}
		m.Role = data.Role
		s.Members[name] = m
	case model.MemberRemoved:
		if _, there := s.Members[name]; !there {
			t.Errorf("seq %d removes %s, who is no member", e.Seq, name)
		}
		delete(s.Members, name)
	}
}

// findMentions finds out anew whom each message names.
func (s *told) findMentions(w *fixture) {
	gone := map[string]bool{}
	for name, actor := range w.Actors {
		if there, err := w.DB.NewSelect().Table("users").Where("id = ?", actor.UserID).
			Exists(w.T.Context()); err != nil {
			w.T.Fatal(err)
		} else if !there {
			gone[name] = true
		}
	}
	for _, m := range s.Messages {
		for word := range strings.FieldsSeq(m.Content) {
			name, is := strings.CutPrefix(word, "@")
			if is && m.audience[name] && !gone[name] && !slices.Contains(m.Mentioned, name) {
				m.Mentioned = append(m.Mentioned, name)
			}
		}
		slices.Sort(m.Mentioned)
	}
}

func (s *told) audience() map[string]bool {
	names := map[string]bool{}
	for name := range s.Members {
		names[name] = true
	}
	return names
}

// readTables reads the same from where it is stored.
func (w *fixture) readTables(t *testing.T, id model.ConversationID) *told {
	t.Helper()
	ctx := t.Context()
	var c model.Conversation
	if err := w.DB.NewSelect().Model(&c).Where("c.id = ?", id).Scan(ctx); err != nil {
		t.Fatal(err)
	}
	s := &told{
		Title: c.Title, MayRename: c.MembersMayRename, History: c.History, LastSeq: c.LastSeq,
		LastMessage: c.LastMessageSeq,
		Active:      c.LastActivityAt, Members: map[string]toldMember{},
		Messages: map[int64]*toldMessage{},
	}
	var members []*model.ConversationMember
	if err := w.DB.NewSelect().Model(&members).Where("cm.conversation_id = ?", id).
		Scan(ctx); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		s.Members[w.name(&m.UserID)] = toldMember{m.Role, m.JoinedSeq, m.HiddenSeq, m.JoinedAt}
		if m.LastReadSeq > c.LastSeq || m.LastReadSeq < m.JoinedSeq {
			t.Errorf("%s has read up to %d, joined with %d, and the newest is %d",
				w.name(&m.UserID), m.LastReadSeq, m.JoinedSeq, c.LastSeq)
		}
	}
	var messages []*model.Message
	if err := w.DB.NewSelect().Model(&messages).Where("m.conversation_id = ?", id).
		Scan(ctx); err != nil {
		t.Fatal(err)
	}
	byID := map[model.MessageID]*toldMessage{}
	for _, m := range messages {
		byID[m.ID] = &toldMessage{
			ID: m.ID, Author: w.name(m.AuthorID), At: m.CreatedAt, EditedAt: m.EditedAt,
			DeletedAt: m.DeletedAt,
			Reactions: map[string][]string{}, Content: m.Content,
		}
		s.Messages[m.Seq] = byID[m.ID]
		if (m.DeletedAt != nil) != (m.Content == "") {
			t.Errorf("message %d: %+v", m.Seq, m)
		}
	}
	w.readReactions(t, id, byID)
	return s
}

func (w *fixture) readReactions(
	t *testing.T, id model.ConversationID, byID map[model.MessageID]*toldMessage,
) {
	t.Helper()
	var reactions []*model.Reaction
	if err := w.DB.NewSelect().Model(&reactions).Where("r.conversation_id = ?", id).
		Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range reactions {
		m := byID[r.MessageID]
		m.Reactions[r.Emoji] = append(m.Reactions[r.Emoji], w.name(&r.UserID))
		slices.Sort(m.Reactions[r.Emoji])
	}
	var mentions []*model.Mention
	if err := w.DB.NewSelect().Model(&mentions).Where("mn.conversation_id = ?", id).
		Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, mn := range mentions {
		m := byID[mn.MessageID]
		m.Mentioned = append(m.Mentioned, w.name(&mn.UserID))
		slices.Sort(m.Mentioned)
	}
}

// name is the nickname of somebody who is, or was, in this world, and their id where they are not;
// "" for nobody.
func (w *fixture) name(id *model.UserID) string {
	if id == nil {
		return ""
	}
	for name, actor := range w.Actors {
		if actor.UserID == *id {
			return name
		}
	}
	return fmt.Sprint(uuid.UUID(*id))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
