package graph_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"parley/auth"
	"parley/graph"
	"parley/internal/race"
	"parley/store/storetest"
	"parley/wire"
)

// Subscriptions of every mode that start and end on one socket leave nothing behind: after all of
// them no more is in memory than after the first tenth. It runs alone, because it counts.
func TestNothingStaysOfSubscriptions(t *testing.T) { //nolint:paralleltest // see above
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) {
		o.ChangeTransport(func(o *wire.Options) { o.MaxOperations = 1 << 20 })
	})
	ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
	id := s.mustConversation(ann, bob)
	s.mustSend(bob, id, "hello")
	s.mustDial(bob.token, nil) // so that presenceChanged has a user to report
	conn := s.mustOpen(ann.token)
	if err := conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	kinds := []struct {
		field  string
		answer bool // is sent at once
	}{
		// broadcast
		{`messageAdded(conversationId: $id, afterSeq: 1) { content }`, true},
		// broadcast, and live at once
		{`messageAdded(conversationId: $id) { content }`, false},
		// executed
		{`messageAdded(conversationId: $id, afterSeq: 1) {
			conversation { viewerMember { joinedAt } } }`, true},
		{`conversationEvents(conversationId: $id, afterSeq: 1) { __typename }`, true},
		{`conversationEvents(conversationId: $id, afterSeq: 1) {
			... on ConversationEvent { conversation { title } } }`, true},
		{`events { cursor }`, true},
		{`presenceChanged { online }`, true},
		{`inboxUpdated { unreadCount }`, false},
		{`conversationAdded { id }`, false},
		{`typing(conversationId: $id) { typing }`, false},
	}
	n := 0
	cycle := func(rounds int) {
		for range rounds {
			for _, k := range kinds {
				n++
				name := strconv.Itoa(n)
				query := "subscription { " + strings.ReplaceAll(k.field, "$id", strconv.Quote(id)) +
					" }"
				mustWrite(t, conn, fmt.Sprintf(
					`{"id":%q,"type":"subscribe","payload":{"query":%q}}`, name, query))
				if k.answer {
					mustAnswer(t, r, name)
				}
				mustWrite(t, conn, fmt.Sprintf(`{"id":%q,"type":"complete"}`, name))
			}
		}
		mustWrite(t, conn, `{"type":"ping"}`)
		mustAnswer(t, r, "pong")
	}
	const rounds = 300 / race.Slowness
	cycle(rounds / 10)
	goroutines, bytes := used(t)
	cycle(rounds - rounds/10)
	after, with := used(t)
	if after > goroutines {
		t.Errorf("%d goroutines more than before", after-goroutines)
	}
	if grown := with - bytes; grown > 512<<10 {
		t.Errorf("%d bytes more than before", grown)
	}
}

// mustAnswer reads until the first frame of an operation, which must not be an error.
func mustAnswer(t testing.TB, r *bufio.Reader, name string) {
	t.Helper()
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			t.Fatal(err)
		}
		size := int(head[1])
		if size == 126 {
			if _, err := io.ReadFull(r, head[2:]); err != nil {
				t.Fatal(err)
			}
			size = int(binary.BigEndian.Uint16(head[2:]))
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		if text := string(b); strings.Contains(text, `"error`) {
			t.Fatal(text)
		} else if strings.Contains(text, `"`+name+`"`) {
			return
		}
	}
}
