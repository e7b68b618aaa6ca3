package chattest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"pgregory.net/rapid"

	"parley/chat"
	"parley/errs"
	"parley/model"
)

// History is a sequence of operations, drawn before the first one runs.
type History struct {
	People  []string
	Steps   []Step
	Workers int // how many goroutines share the steps
}

// Step is one operation. Its numbers choose accounts, conversations and messages: each is taken
// modulo how many there are.
type Step struct {
	What                string
	Who, Whom           int
	Conversation, About int
	Emoji, Content      string
	Flag                bool
}

// DrawHistory draws a History of 40 to 80 steps, of the usual operations and of those that more
// names. prefix begins the nicknames.
func DrawHistory(rt *rapid.T, prefix string, more ...string) History {
	h := History{Workers: rapid.SampledFrom([]int{1, 1, 4}).Draw(rt, "workers")}
	for i := range 6 {
		h.People = append(h.People, fmt.Sprint(prefix, i))
	}
	whats := []string{
		"create", "send", "send", "send", "reply", "reply", "edit", "edit", "delete", "react",
		"react", "react", "react", "take back",
		"take back", "add", "add", "remove", "role", "transfer", "rename", "settings", "leave",
		"read", "draft", "membership", "account",
	}
	whats = append(whats, more...)
	number := rapid.IntRange(0, 1000)
	h.Steps = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) Step {
		return Step{
			What: rapid.SampledFrom(whats).Draw(rt, "what"), Who: number.Draw(rt, "who"),
			Whom:         number.Draw(rt, "whom"),
			Conversation: number.Draw(rt, "conversation"), About: number.Draw(rt, "about"),
			Flag:  rapid.Bool().Draw(rt, "flag"),
			Emoji: rapid.SampledFrom([]string{"👍", "❤", "❤️", "🎉"}).Draw(rt, "emoji"),
			Content: fmt.Sprintf("%d for @%s%d and @%s%d", number.Draw(rt, "content"),
				prefix, rapid.IntRange(0, 6).Draw(rt, "first"), prefix, rapid.IntRange(0, 6).
					Draw(rt, "second")),
		}
	}), 40, 80).Draw(rt, "steps")
	return h
}

// Stage is what the steps of a history have created so far, and what runs besides the usual
// operations.
type Stage struct {
	Follow func(who string, c *model.Conversation, st Step) error // runs steps named "follow"
	Stop   func(st Step)                                          // runs steps named "stop"
	Done   func()                                                 // called after each step

	Mu            sync.Mutex // guards what follows
	Conversations []*model.Conversation
	Messages      []*model.Message
}

// Conversation returns the conversation that a number chooses.
func (s *Stage) Conversation(n int) *model.Conversation {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return s.Conversations[n%len(s.Conversations)]
}

// Message returns the message that a number chooses; an unknown one if there is none.
func (s *Stage) Message(n int) *model.Message {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if len(s.Messages) == 0 {
		return &model.Message{ID: model.NewMessageID(), ConversationID: s.Conversations[0].ID}
	}
	return s.Messages[n%len(s.Messages)]
}

// Run runs the steps, and returns the errors that no client could have caused.
func (h History) Run(w *Fixture) (wrong []error) {
	w.T.Helper()
	return h.RunOn(w, &Stage{Done: func() {}})
}

// RunOn is Run with a stage.
func (h History) RunOn(w *Fixture, s *Stage) (wrong []error) {
	w.T.Helper()
	s.Conversations = []*model.Conversation{
		MustConversation(w.T, w, h.People[0], h.People[1:4]...),
		MustHidden(w.T, w, h.People[1], h.People[2:4]...),
	}
	var all sync.WaitGroup
	for i := range h.Workers {
		all.Go(func() {
			for j := i; j < len(h.Steps); j += h.Workers {
				err := h.Do(w, s, h.Steps[j])
				s.Done()
				if e, known := errors.AsType[*errs.Error](err); err != nil &&
					errs.Correctable(err) == nil && (!known || e.Code == errs.Unavailable) {
					s.Mu.Lock()
					wrong = append(wrong, fmt.Errorf("%s: %w", h.Steps[j].What, err))
					s.Mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return wrong
}

// Owner mostly returns the owner of a conversation instead of the actor, because other members may
// do little with its members.
func (h History) Owner(w *Fixture, who model.Actor, c *model.Conversation, st Step) model.Actor {
	if st.About%4 > 0 {
		var ids []model.UserID
		err := w.DB.NewSelect().Table("conversation_members").Column("user_id").
			Where("conversation_id = ?", c.ID).
			Where("role = ?", model.Owner).Scan(w.T.Context(), &ids)
		if err == nil && len(ids) == 1 {
			who.UserID = ids[0]
		}
	}
	return who
}

// Do runs one step.
func (h History) Do(w *Fixture, s *Stage, st Step) error {
	ctx := w.T.Context()
	who, whom := w.Actor(h.People[st.Who%len(h.People)]), w.UserID(h.People[st.Whom%len(h.People)])
	c, m := s.Conversation(st.Conversation), s.Message(st.About)
	roles := map[bool]model.Role{false: model.Member, true: model.Admin}
	var err error
	switch st.What {
	case "create":
		c, err = w.CreateConversation(ctx, who,
			chat.CreateConversation{Members: []*chat.NewMember{{
				UserID: whom,
				Role:   roles[st.Flag],
			}}, MembersMayRename: st.Flag})
		if st.Whom%3 == 0 {
			c, err = w.OpenDirect(ctx, who, whom)
		}
		s.Mu.Lock()
		if err == nil && !slices.ContainsFunc(s.Conversations,
			func(o *model.Conversation) bool { return o.ID == c.ID }) {
			s.Conversations = append(s.Conversations, c)
		}
		s.Mu.Unlock()
	case "send", "reply":
		in := chat.SendMessage{ConversationID: c.ID, Content: st.Content}
		if st.What == "reply" {
			in.ReplyToID, in.ConversationID = &m.ID, m.ConversationID
		}
		if st.Flag {
			in.IdempotencyKey = new(fmt.Sprint(st.About % 5))
		}
		m, err = w.SendMessage(ctx, who, in)
		s.Mu.Lock()
		if err == nil {
			s.Messages = append(s.Messages, m)
		}
		s.Mu.Unlock()
	case "edit":
		if st.Flag && m.AuthorID != nil { // a random actor is seldom the author
			who.UserID = *m.AuthorID
		}
		_, err = w.EditMessage(ctx, who, chat.EditMessage{MessageID: m.ID, Content: st.Content})
	case "delete":
		_, err = w.DeleteMessage(ctx, who, m.ID)
	case "react":
		_, err = w.AddReaction(ctx, who, m.ID, st.Emoji)
	case "take back":
		_, err = w.RemoveReaction(ctx, who, m.ID, st.Emoji)
	case "add":
		_, err = w.AddMembers(ctx, h.Owner(w, who, c, st), c.ID,
			[]*chat.NewMember{{UserID: whom, Role: roles[st.Flag]}})
	case "remove":
		_, err = w.RemoveMember(ctx, h.Owner(w, who, c, st), c.ID, whom)
	case "again":
		if _, err = w.RemoveMember(ctx, h.Owner(w, who, c, st), c.ID, whom); err == nil {
			_, err = w.AddMembers(ctx, h.Owner(w, who, c, st), c.ID,
				[]*chat.NewMember{{UserID: whom, Role: model.Member}})
		}
	case "follow":
		return s.Follow(h.People[st.Who%len(h.People)], c, st)
	case "stop":
		s.Stop(st)
	case "role":
		_, err = w.ChangeRole(ctx, who, c.ID, whom, roles[st.Flag])
	case "transfer":
		_, err = w.TransferOwnership(ctx, who, c.ID, whom)
	case "rename":
		_, err = w.Rename(ctx, who, c.ID, strings.Fields(st.Content)[0])
	case "settings":
		_, err = w.UpdateConversationSettings(ctx, who, c.ID, st.Flag)
	case "leave":
		err = w.Leave(ctx, who, c.ID)
	case "read":
		_, err = w.MarkRead(ctx, who, c.ID, int64(st.About%30))
	case "draft":
		_, err = w.SaveDraft(ctx, who, c.ID, st.Content)
	case "membership":
		_, err = w.UpdateMembership(ctx, who,
			chat.UpdateMembership{
				ConversationID: c.ID, Archived: &st.Flag, Pinned: &st.Flag,
				Muted: &st.Flag,
			})
	case "account":
		if st.About%4 == 0 { // seldom, or no account would be left
			err = w.RemoveAccount(h.People[st.Who%len(h.People)])
		}
	}
	return err
}
