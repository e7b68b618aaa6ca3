package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// The law: whatever people do, one after the other or all at once, the log of a conversation alone
// tells what the tables hold: its members, title and settings, and its messages with their edits,
// deletions, mentions and reactions.
func TestTheLogTellsEverything(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := MustWorld(t, db)
		checks := 0
		rapid.Check(t, func(rt *rapid.T) {
			checks++
			plan := drawHistory(rt, fmt.Sprintf("p%dx", checks))
			w.invite(plan.people...)
			for _, err := range plan.run(w) {
				t.Errorf("nothing that was asked for is the server's fault: %v", err)
			}
			var all []*model.Conversation
			if err := db.NewSelect().Model(&all).Scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range all {
				w.wantLogTells(t, c.ID)
			}
			// The next check begins with an empty world.
			w.exec("DELETE FROM conversations")
			clear(w.actors)
		})
	})
}

// history is what people do, drawn before anything starts.
type history struct {
	people  []string
	steps   []step
	workers int // how many do it at once
}

// step names what it is about by numbers, which are taken modulo how many there are then.
type step struct {
	what                string
	who, whom           int
	conversation, about int
	emoji, content      string
	flag                bool
}

// drawHistory draws one of what people always do, and of what else is named.
func drawHistory(rt *rapid.T, prefix string, more ...string) history {
	h := history{workers: rapid.SampledFrom([]int{1, 1, 4}).Draw(rt, "workers")}
	for i := range 6 {
		h.people = append(h.people, fmt.Sprint(prefix, i))
	}
	whats := []string{
		"create", "send", "send", "send", "reply", "reply", "edit", "edit", "delete", "react", "react", "react", "react", "take back",
		"take back", "add", "add", "remove", "role", "transfer", "rename", "settings", "leave", "read", "draft", "membership", "account",
	}
	whats = append(whats, more...)
	number := rapid.IntRange(0, 1000)
	h.steps = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
		return step{
			what: rapid.SampledFrom(whats).Draw(rt, "what"), who: number.Draw(rt, "who"), whom: number.Draw(rt, "whom"),
			conversation: number.Draw(rt, "conversation"), about: number.Draw(rt, "about"), flag: rapid.Bool().Draw(rt, "flag"),
			emoji: rapid.SampledFrom([]string{"👍", "❤", "❤️", "🎉"}).Draw(rt, "emoji"),
			content: fmt.Sprintf("%d for @%s%d and @%s%d", number.Draw(rt, "content"),
				prefix, rapid.IntRange(0, 6).Draw(rt, "first"), prefix, rapid.IntRange(0, 6).Draw(rt, "second")),
		}
	}), 40, 80).Draw(rt, "steps")
	return h
}

// stage is what the steps of a history have made so far.
type stage struct {
	follow func(who string, c *model.Conversation, st step) error // for steps of this name
	stop   func(st step)
	done   func() // each of them

	mu            sync.Mutex
	conversations []*model.Conversation
	messages      []*model.Message
}

func (s *stage) conversation(n int) *model.Conversation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conversations[n%len(s.conversations)]
}

func (s *stage) message(n int) *model.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) == 0 {
		return &model.Message{ID: model.NewMessageID(), ConversationID: s.conversations[0].ID}
	}
	return s.messages[n%len(s.messages)]
}

// run returns what went wrong that nobody had asked for.
func (h history) run(w *world) (wrong []error) {
	w.t.Helper()
	return h.runOn(w, &stage{done: func() {}})
}

func (h history) runOn(w *world, s *stage) (wrong []error) {
	w.t.Helper()
	s.conversations = []*model.Conversation{
		MustConversation(w.t, w, h.people[0], h.people[1:4]...), MustHidden(w.t, w, h.people[1], h.people[2:4]...),
	}
	var all sync.WaitGroup
	for i := range h.workers {
		all.Go(func() {
			for j := i; j < len(h.steps); j += h.workers {
				err := h.do(w, s, h.steps[j])
				s.done()
				if e, known := errors.AsType[*errs.Error](err); err != nil && errs.Correctable(err) == nil && (!known || e.Code == errs.Unavailable) {
					s.mu.Lock()
					wrong = append(wrong, fmt.Errorf("%s: %w", h.steps[j].what, err))
					s.mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return wrong
}

// owner is often who owns a conversation, because others may not do much with its members.
func (h history) owner(w *world, who model.Actor, c *model.Conversation, st step) model.Actor {
	if st.about%4 > 0 {
		var ids []model.UserID
		err := w.db.NewSelect().Table("conversation_members").Column("user_id").Where("conversation_id = ?", c.ID).
			Where("role = ?", model.Owner).Scan(w.t.Context(), &ids)
		if err == nil && len(ids) == 1 {
			who.UserID = ids[0]
		}
	}
	return who
}

func (h history) do(w *world, s *stage, st step) error {
	ctx := w.t.Context()
	who, whom := w.actor(h.people[st.who%len(h.people)]), w.id(h.people[st.whom%len(h.people)])
	c, m := s.conversation(st.conversation), s.message(st.about)
	roles := map[bool]model.Role{false: model.Member, true: model.Admin}
	var err error
	switch st.what {
	case "create":
		c, err = w.CreateConversation(ctx, who, CreateConversation{Members: []*NewMember{{whom, roles[st.flag]}}, MembersMayRename: st.flag})
		if st.whom%3 == 0 {
			c, err = w.OpenDirect(ctx, who, whom)
		}
		s.mu.Lock()
		if err == nil && !slices.ContainsFunc(s.conversations, func(o *model.Conversation) bool { return o.ID == c.ID }) {
			s.conversations = append(s.conversations, c)
		}
		s.mu.Unlock()
	case "send", "reply":
		in := SendMessage{ConversationID: c.ID, Content: st.content}
		if st.what == "reply" {
			in.ReplyToID, in.ConversationID = &m.ID, m.ConversationID
		}
		if st.flag {
			in.IdempotencyKey = new(fmt.Sprint(st.about % 5))
		}
		m, err = w.SendMessage(ctx, who, in)
		s.mu.Lock()
		if err == nil {
			s.messages = append(s.messages, m)
		}
		s.mu.Unlock()
	case "edit":
		if st.flag && m.AuthorID != nil { // else it would hardly ever be its author
			who.UserID = *m.AuthorID
		}
		_, err = w.EditMessage(ctx, who, EditMessage{MessageID: m.ID, Content: st.content})
	case "delete":
		_, err = w.DeleteMessage(ctx, who, m.ID)
	case "react":
		_, err = w.AddReaction(ctx, who, m.ID, st.emoji)
	case "take back":
		_, err = w.RemoveReaction(ctx, who, m.ID, st.emoji)
	case "add":
		_, err = w.AddMembers(ctx, h.owner(w, who, c, st), c.ID, []*NewMember{{whom, roles[st.flag]}})
	case "remove":
		_, err = w.RemoveMember(ctx, h.owner(w, who, c, st), c.ID, whom)
	case "again":
		if _, err = w.RemoveMember(ctx, h.owner(w, who, c, st), c.ID, whom); err == nil {
			_, err = w.AddMembers(ctx, h.owner(w, who, c, st), c.ID, []*NewMember{{whom, model.Member}})
		}
	case "follow":
		return s.follow(h.people[st.who%len(h.people)], c, st)
	case "stop":
		s.stop(st)
	case "role":
		_, err = w.ChangeRole(ctx, who, c.ID, whom, roles[st.flag])
	case "transfer":
		_, err = w.TransferOwnership(ctx, who, c.ID, whom)
	case "rename":
		_, err = w.Rename(ctx, who, c.ID, strings.Fields(st.content)[0])
	case "settings":
		_, err = w.UpdateConversationSettings(ctx, who, c.ID, st.flag)
	case "leave":
		err = w.Leave(ctx, who, c.ID)
	case "read":
		_, err = w.MarkRead(ctx, who, c.ID, int64(st.about%30))
	case "draft":
		_, err = w.SaveDraft(ctx, who, c.ID, st.content)
	case "membership":
		_, err = w.UpdateMembership(ctx, who, UpdateMembership{ConversationID: c.ID, Archived: &st.flag, Pinned: &st.flag, Muted: &st.flag})
	case "account":
		if st.about%4 == 0 { // seldom, or nobody would be left
			err = w.leave(h.people[st.who%len(h.people)])
		}
	}
	return err
}
