package graph_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"parley/auth"
	"parley/graph"
	"parley/store"
	"parley/store/storetest"
	"parley/wire"
)

// A reader that stalls does not delay the others: they get new messages at once. It loses its
// connection, and after a reconnect it has missed nothing.
func TestReaderThatStalls(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := mustServe(t, db, func(o *graph.Options, _ *auth.Options) {
			o.ChangeTransport(func(o *wire.Options) {
				o.WriteTimeout,
					o.QueueBytes = 100*time.Millisecond, 128<<10
			})
		})
		ann, bob := s.mustRegister("ann"), s.mustRegister("bob")
		id := s.mustConversation(ann, bob)
		stalled := s.mustOpen(bob.token)
		fields := "seq"
		// the answer has a hundred thousand bytes, although the message is short
		for i := range 25 {
			fields += fmt.Sprintf(" a%d: content", i)
		}
		query :=
			"subscription($id: ID!, $after: Int) { messageAdded(conversationId: $id, afterSeq: " +
				"$after) { " + fields + " } }"
		follow := func(conn net.Conn, after int) {
			mustWrite(t, conn, fmt.Sprintf(
				`{"id":"1","type":"subscribe","payload":{"query":%q,`+
					`"variables":{"id":%q,"after":%d}}}`,
				query, id, after))
		}
		follow(stalled, 1)
		lively := s.mustDial(ann.token, nil).
			subscribe(messageAdded, map[string]any{"id": id, "after": 1})
		long := strings.Repeat("x", 4000)
		last := 1
		for s.graph.Connections() == 2 {
			s.mustSend(ann, id, long)
			last++
			if got := lively.message(t); got != fmt.Sprintf("%d %s by ann", last, long) {
				t.Fatalf("after %d came %.20s", last-1, got)
			}
			if last > 1000 {
				t.Fatal("a hundred megabytes wait for a client that reads nothing")
			}
		}
		seen := 1
		seqs := func(conn net.Conn) {
			for r := bufio.NewReader(conn); seen < last; {
				seq, err := readSeq(r)
				if err != nil && conn == stalled { // the end of what was sent before
					return
				}
				if err != nil || seq != seen+1 {
					t.Fatalf("after %d came %d, %v", seen, seq, err)
				}
				seen = seq
			}
		}
		if seqs(stalled); seen == last {
			t.Fatal("it has not stalled")
		}
		again := s.mustOpen(bob.token)
		follow(again, seen)
		seqs(again)
	})
}

// readSeq reads the next message of a subscription.
func readSeq(r io.Reader) (seq int, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	size := uint64(head[1])
	var long [8]byte
	switch {
	case head[0] != 0x81:
		return 0, fmt.Errorf("a frame starts with %x", head)
	case size == 126:
		_, err = io.ReadFull(r, long[6:])
		size = binary.BigEndian.Uint64(long[:])
	case size == 127:
		_, err = io.ReadFull(r, long[:])
		size = binary.BigEndian.Uint64(long[:])
	}
	if err != nil {
		return 0, err
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, err
	}
	var next struct {
		Payload struct {
			Data struct{ MessageAdded struct{ Seq int } }
		}
	}
	if err := json.Unmarshal(b, &next); err != nil || next.Payload.Data.MessageAdded.Seq == 0 {
		return 0, fmt.Errorf("got %.200s (%w)", b, err)
	}
	return next.Payload.Data.MessageAdded.Seq, nil
}

// Connections of peers that have vanished count until that is noticed, and no longer.
func TestConnectionsOfVanishedPeersAreReleased(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) {
		o.MaxConnections = 20
		o.ChangeTransport(func(o *wire.Options) { o.PingInterval = 500 * time.Millisecond })
	})
	ann := s.mustRegister("ann")
	for range 20 {
		s.mustOpen(ann.token) // and it never reads
	}
	for {
		c := s.mustConnect()
		c.send(frame{
			Type:    "connection_init",
			Payload: mustJSON(t, map[string]any{"Authorization": "Bearer " + ann.token}),
		})
		f, err := c.tryRead()
		if err == nil && f.Type == "connection_ack" {
			return
		}
	}
}
