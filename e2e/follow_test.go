package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"parley/model"
	"parley/store"
)

// TestFollow checks both transports: replay and live events without a gap or a duplicate, while
// several users send.
func TestFollow(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		people := srv.registerAll("ada", "grace", "linus", "barbara")
		ada, grace := people[0], people[1]
		conversation := ada.converse(people[1:]...)
		const each = 60

		// The senders are among the followers.
		first := []*follower{
			ada.follow(webSocket, followOptions{
				ConversationID: conversation,
				AfterSeq:       new(int64(0)),
			}),
			grace.follow(serverSent, followOptions{
				ConversationID: conversation,
				AfterSeq:       new(int64(0)),
			}),
		}
		for _, f := range first {
			f.want("connected")
		}
		senders := startSending(t, conversation, each, people...)
		first[0].until(50)
		// These start while users send: most from the beginning, one after the first messages.
		late := []*follower{
			grace.follow(webSocket, followOptions{
				ConversationID: conversation,
				AfterSeq:       new(int64(0)),
			}),
			ada.follow(serverSent, followOptions{
				ConversationID: conversation,
				AfterSeq:       new(int64(0)),
			}),
			ada.follow(single, followOptions{
				ConversationID: conversation,
				AfterSeq:       new(int64(0)),
			}),
			ada.follow(webSocket, followOptions{
				ConversationID: conversation,
				AfterSeq:       new(first[0].messages[29].Seq),
			}),
		}
		for _, f := range late {
			f.want("connected")
		}
		senders.finish()

		listed := grace.listed(conversation)
		senders.wantSent(listed)
		for _, f := range append(first, late[:3]...) {
			f.wantAll(listed)
		}
		late[3].wantAll(listed[30:])
		// No old message comes again after a new one.
		last := ada.send(conversation, "the last one")
		for _, f := range append(first, late...) {
			f.wantMessage(last)
		}

		// Without afterSeq a stream begins when the server is ready, which the client cannot see.
		var sent []message
		now := ada.follow(webSocket, followOptions{ConversationID: conversation})
		eventually(t, "a message has come", func() bool {
			sent = append(sent, grace.send(conversation,
				fmt.Sprintf("are you there? %d", len(sent))))
			return len(now.events) > 1 // the first event is "connected"
		})
		now.want("connected")
		now.want("next")
		begin := now.messages[0].Seq - sent[0].Seq
		now.wantAll(sent[begin:])
	})
}

// TestRefused checks which clients the transports refuse, and with which errors.
func TestRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL))
		ada, grace, linus := srv.register("ada"), srv.register("grace"), srv.register("linus")
		conversation := ada.converse(grace)
		ada.send(conversation, "for members only")
		all := followOptions{ConversationID: conversation, AfterSeq: new(int64(0))}

		anonymous := srv.anonymous()
		bad := &person{server: srv, tokens: tokens{AccessToken: "nonsense"}}
		tooFar := followOptions{ConversationID: conversation, AfterSeq: new(int64(1_000))}
		refused := []struct {
			*follower
			code string
		}{
			{linus.follow(webSocket, all), "NOT_FOUND"},
			{linus.follow(serverSent, all), "NOT_FOUND"},
			{linus.follow(single, all), "NOT_FOUND"},
			{anonymous.follow(webSocket, all), "UNAUTHENTICATED"},
			{anonymous.follow(serverSent, all), "UNAUTHENTICATED"},
			{bad.follow(serverSent, all), "UNAUTHENTICATED"},
			{ada.follow(webSocket, tooFar), "HISTORY_CHANGED"},
		}
		// A socket is authenticated before its first operation, so a bad token closes it. A stream
		// carries one operation, which fails.
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
		all := followOptions{ConversationID: conversation, AfterSeq: new(int64(0))}
		hello := ada.send(conversation, "hello")

		leaving := ada.loginAgain()
		socket, stream, staying := leaving.follow(webSocket, all), leaving.follow(serverSent, all),
			ada.follow(webSocket, all)
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

// TestRemoved checks that following ends with the membership. The test removes the member in the
// database, past the server, which notices when it reconciles.
func TestRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, databaseURL string) {
		srv := mustServe(t, on(databaseURL), "PARLEY_RECONCILE_EVERY=50ms")
		ada, grace := srv.register("ada"), srv.register("grace")
		conversation := ada.converse(grace)
		all := followOptions{ConversationID: conversation, AfterSeq: new(int64(0))}
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
		err = tx.NewSelect().Model((*model.Conversation)(nil)).Column("last_seq").
			Where("id = ?", conversationID).Scan(ctx, &seq)
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

// senders are users who send at the same time, each one message after another.
type senders struct {
	t            *testing.T
	conversation string
	people       []*person
	each         int // messages of each person
	sent         []int
	failed       []error
	stopped      atomic.Bool
	running      sync.WaitGroup
}

// forever is more messages than any test waits for.
const forever = 100_000

func startSending(t *testing.T, conversation string, each int, people ...*person) *senders {
	t.Helper()
	c := &senders{
		t: t, conversation: conversation, people: people, each: each,
		sent: make([]int, len(people)), failed: make([]error, len(people)),
	}
	c.resume()
	t.Cleanup(c.running.Wait)
	return c
}

// resume makes every user continue with the message that was not answered yet.
func (c *senders) resume() {
	for i, p := range c.people {
		c.running.Go(func() {
			for c.failed[i] = nil; c.sent[i] < c.each && !c.stopped.Load(); c.sent[i]++ {
				text := c.text(p, c.sent[i])
				if _, c.failed[i] = p.trySend(c.t.Context(), c.conversation, text,
					text); c.failed[i] != nil {
					return
				}
			}
		})
	}
}

func (c *senders) text(p *person, i int) string { return fmt.Sprintf("%s %d", p.Nickname, i+1) }

// stop makes every user stop after the message that is being sent.
func (c *senders) stop() { c.stopped.Store(true) }

// finish waits until all messages are sent, or those before stop.
func (c *senders) finish() {
	c.t.Helper()
	c.running.Wait()
	if err := errors.Join(c.failed...); err != nil {
		c.t.Fatal(err)
	}
}

// interrupted waits until no user gets answers. After resume each user sends more messages.
func (c *senders) interrupted(more int) {
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

// wantSent checks that each sent message is listed once, and each user's messages in order.
func (c *senders) wantSent(listed []message) {
	c.t.Helper()
	by := map[string]int{}
	for _, m := range listed {
		if want := fmt.Sprintf("%s %d", m.Author.Nickname,
			by[m.Author.Nickname]+1); m.Content != want {
			c.t.Fatalf("seq %d is %q, want %q", m.Seq, m.Content, want)
		}
		by[m.Author.Nickname]++
	}
	for i, p := range c.people {
		if n := by[p.Nickname]; n != c.sent[i] {
			c.t.Errorf("%d messages of %s are there, want %d", n, p.Nickname, c.sent[i])
		}
	}
	for i, m := range listed[1:] {
		if m.Seq != listed[i].Seq+1 {
			c.t.Errorf("after seq %d comes %d", listed[i].Seq, m.Seq)
		}
	}
}
