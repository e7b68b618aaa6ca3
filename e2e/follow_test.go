package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"parley/model"
	"parley/store"
)

// TestFollow checks what both transports promise: replay and live without a gap or a double, while
// several people send.
func TestFollow(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		people := srv.registerAll("ada", "grace", "linus", "barbara")
		ada, grace := people[0], people[1]
		conversation := ada.converse(people[1:]...)
		const each = 60

		// The senders are among the followers.
		first := []*follower{
			ada.follow(webSocket, way{ConversationID: conversation, AfterSeq: new(int64(0))}),
			grace.follow(serverSent, way{ConversationID: conversation, AfterSeq: new(int64(0))}),
		}
		for _, f := range first {
			f.want("connected")
		}
		crowd := startSending(t, conversation, each, people...)
		first[0].until(50)
		// These come while it goes on: one has nothing, the other the first messages.
		late := []*follower{
			grace.follow(webSocket, way{ConversationID: conversation, AfterSeq: new(int64(0))}),
			ada.follow(serverSent, way{ConversationID: conversation, AfterSeq: new(int64(0))}),
			ada.follow(single, way{ConversationID: conversation, AfterSeq: new(int64(0))}),
			ada.follow(webSocket, way{ConversationID: conversation, AfterSeq: new(first[0].messages[29].Seq)}),
		}
		for _, f := range late {
			f.want("connected")
		}
		crowd.finish()

		listed := grace.listed(conversation)
		crowd.wantSent(listed)
		for _, f := range append(first, late[:3]...) {
			f.wantAll(listed)
		}
		late[3].wantAll(listed[30:])
		// Nothing old comes again behind what is new.
		last := ada.send(conversation, "the last one")
		for _, f := range append(first, late...) {
			f.wantMessage(last)
		}

		// Without afterSeq it begins whenever the server is ready, which the client is not told.
		var sent []message
		now := ada.follow(webSocket, way{ConversationID: conversation})
		eventually(t, "a message has come", func() bool {
			sent = append(sent, grace.send(conversation, fmt.Sprintf("are you there? %d", len(sent))))
			return len(now.events) > 1 // the first says that it has connected
		})
		now.want("connected")
		now.want("next")
		begin := now.messages[0].Seq - sent[0].Seq
		now.wantAll(sent[begin:])
	})
}

// TestRefused checks whom the transports let in, and how they say no.
func TestRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		ada, grace, linus := srv.register("ada"), srv.register("grace"), srv.register("linus")
		conversation := ada.converse(grace)
		ada.send(conversation, "not for everybody")
		all := way{ConversationID: conversation, AfterSeq: new(int64(0))}

		nobody := srv.nobody()
		bad := &person{server: srv, tokens: tokens{AccessToken: "nonsense"}}
		tooFar := way{ConversationID: conversation, AfterSeq: new(int64(1_000))}
		refused := []struct {
			*follower
			code string
		}{
			{linus.follow(webSocket, all), "NOT_FOUND"},
			{linus.follow(serverSent, all), "NOT_FOUND"},
			{linus.follow(single, all), "NOT_FOUND"},
			{nobody.follow(webSocket, all), "UNAUTHENTICATED"},
			{nobody.follow(serverSent, all), "UNAUTHENTICATED"},
			{bad.follow(serverSent, all), "UNAUTHENTICATED"},
			{ada.follow(webSocket, tooFar), "BAD_USER_INPUT"},
		}
		// A socket is somebody's before it carries anything, so a bad token ends it; a stream
		// carries one operation.
		closed := bad.follow(webSocket, all)

		for _, f := range refused {
			f.want("connected")
			f.wantRefused(f.code)
		}
		if e := closed.want("closed"); e.Code != 4403 || e.Reason == "" {
			t.Errorf("closed with %d %q, want 4403 and a reason", e.Code, e.Reason)
		}
		if e := closed.want("failed"); e.Code != 4403 {
			t.Errorf("the subscription has failed with %+v", e)
		}
	})
}

// TestLogout checks that following ends with its session, and with no other.
func TestLogout(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		ada, grace := srv.register("ada"), srv.register("grace")
		conversation := ada.converse(grace)
		all := way{ConversationID: conversation, AfterSeq: new(int64(0))}
		hello := ada.send(conversation, "hello")

		leaving := ada.again()
		socket, stream, staying := leaving.follow(webSocket, all), leaving.follow(serverSent, all), ada.follow(webSocket, all)
		shared := leaving.follow(single, all)
		for _, f := range []*follower{socket, stream, shared, staying} {
			f.want("connected")
			f.wantMessage(hello)
		}
		leaving.logout()
		secret := grace.send(conversation, "has she gone?")

		if e := socket.want("closed"); e.Code != 4403 || e.Reason == "" {
			t.Errorf("closed with %d %q, want 4403 and a reason", e.Code, e.Reason)
		}
		if e := socket.want("failed"); e.Code != 4403 {
			t.Errorf("the subscription has failed with %+v", e)
		}
		stream.wantRefused("UNAUTHENTICATED")
		shared.wantRefused("UNAUTHENTICATED")
		staying.wantMessage(secret)
	})
}

// TestRemoved checks that following ends with the membership. No operation of the API removes
// anybody yet, so the test writes what such an operation would, past the server, which notices by
// comparing.
func TestRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL), "PARLEY_COMPARE_EVERY=50ms")
		ada, grace := srv.register("ada"), srv.register("grace")
		conversation := ada.converse(grace)
		all := way{ConversationID: conversation, AfterSeq: new(int64(0))}
		hello := ada.send(conversation, "hello")
		followers := []*follower{grace.follow(webSocket, all), grace.follow(serverSent, all)}
		staying := ada.follow(webSocket, all)
		for _, f := range append(followers, staying) {
			f.want("connected")
			f.wantMessage(hello)
		}

		remove(t, databaseURL, conversation, grace.ID)
		for _, f := range followers {
			f.wantRefused("FORBIDDEN")
		}
		staying.wantMessage(ada.send(conversation, "now we are alone"))
	})
}

func remove(t *testing.T, databaseURL, conversation, user string) {
	t.Helper()
	conversationID, err1 := model.ParseID[model.ConversationID](conversation)
	userID, err2 := model.ParseID[model.UserID](user)
	db, err3 := store.Open(t.Context(), databaseURL, store.Options{})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.NewUpdate().Model((*model.Conversation)(nil)).Set("last_seq = last_seq + 1").
			Where("id = ?", conversationID).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewDelete().Model((*model.ConversationMember)(nil)).
			Where("conversation_id = ?", conversationID).Where("user_id = ?", userID).Exec(ctx)
		if err != nil {
			return err
		}
		var seq int64
		err = tx.NewSelect().Model((*model.Conversation)(nil)).Column("last_seq").Where("id = ?", conversationID).Scan(ctx, &seq)
		if err != nil {
			return err
		}
		_, err = tx.NewInsert().Model(&model.Event{
			ConversationID: conversationID, Seq: seq, Kind: model.MemberRemoved, At: tx.Now,
			Data: fmt.Appendf(nil, `{"userId": %q}`, userID),
		}).Value("position", "?", 1_000_000).Exec(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// crowd is several people who send at the same time, each a message after the other.
type crowd struct {
	t            *testing.T
	conversation string
	people       []*person
	each         int // messages of each person
	sent         []int
	failed       []error
	running      sync.WaitGroup
}

// forever is more messages than any test waits for.
const forever = 100_000

func startSending(t *testing.T, conversation string, each int, people ...*person) *crowd {
	t.Helper()
	c := &crowd{
		t: t, conversation: conversation, people: people, each: each,
		sent: make([]int, len(people)), failed: make([]error, len(people)),
	}
	c.goOn()
	t.Cleanup(c.running.Wait)
	return c
}

// goOn has everybody begin with the message that they have no answer to yet.
func (c *crowd) goOn() {
	for i, p := range c.people {
		c.running.Go(func() {
			for c.failed[i] = nil; c.sent[i] < c.each; c.sent[i]++ {
				text := c.text(p, c.sent[i])
				if _, c.failed[i] = p.trySend(c.t.Context(), c.conversation, text, text); c.failed[i] != nil {
					return
				}
			}
		})
	}
}

func (c *crowd) text(p *person, i int) string { return fmt.Sprintf("%s %d", p.Nickname, i+1) }

// finish waits until everybody has sent everything.
func (c *crowd) finish() {
	c.t.Helper()
	c.running.Wait()
	if err := errors.Join(c.failed...); err != nil {
		c.t.Fatal(err)
	}
}

// interrupted waits until nobody gets an answer any more, and has everybody send some more when
// they go on.
func (c *crowd) interrupted(more int) {
	c.t.Helper()
	c.running.Wait()
	for i, p := range c.people {
		if !errors.Is(c.failed[i], errNoAnswer) {
			c.t.Fatalf("%s was not interrupted, but: %v", p.Nickname, c.failed[i])
		}
	}
	c.each = more
	for _, n := range c.sent {
		c.each = max(c.each, n+more)
	}
}

// wantSent makes sure that everything that was sent is there once, each person's messages in the
// order of sending.
func (c *crowd) wantSent(listed []message) {
	c.t.Helper()
	by := map[string]int{}
	for _, m := range listed {
		if want := fmt.Sprintf("%s %d", m.Author.Nickname, by[m.Author.Nickname]+1); m.Content != want {
			c.t.Fatalf("seq %d is %q, want %q", m.Seq, m.Content, want)
		}
		by[m.Author.Nickname]++
	}
	for _, p := range c.people {
		if by[p.Nickname] != c.each {
			c.t.Errorf("%d messages of %s are there, want %d", by[p.Nickname], p.Nickname, c.each)
		}
	}
	for i, m := range listed[1:] {
		if m.Seq != listed[i].Seq+1 {
			c.t.Errorf("after seq %d comes %d", listed[i].Seq, m.Seq)
		}
	}
}
