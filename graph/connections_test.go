package graph_test

import (
	"testing"

	"parley/auth"
	"parley/graph"
	"parley/store/storetest"
)

func TestLiveConnectionsOfAnAccountAreBounded(t *testing.T) {
	t.Parallel()
	s := mustServe(t, storetest.MustSQLite(t), func(o *graph.Options, _ *auth.Options) { o.MaxConnections = 2 })
	ann, bob := s.mustRegister("Ann"), s.mustRegister("Bob")
	id := s.mustConversation(ann, bob)
	first := s.mustDial(ann.token, nil)
	s.mustDial(ann.token, nil)
	refused := func() {
		t.Helper()
		c := s.mustConnect()
		c.send(frame{Type: "connection_init", Payload: mustJSON(t, map[string]any{"Authorization": "Bearer " + ann.token})})
		if code, reason := c.closed("connection_ack"); code != 1013 || reason == "" {
			t.Errorf("closed with %d %s", code, reason)
		}
	}
	refused()
	refused()
	s.mustDial(bob.token, nil) // another account's own

	// One that has ended makes room; the server notices a moment after the client.
	if err := first.conn.CloseNow(); err != nil {
		t.Fatal(err)
	}
	for {
		c := s.mustConnect()
		c.send(frame{Type: "connection_init", Payload: mustJSON(t, map[string]any{"Authorization": "Bearer " + ann.token})})
		if f, err := c.tryRead(); err == nil && f.Type == "connection_ack" {
			o := c.subscribe(`subscription($id: ID!) { messageAdded(conversationId: $id, afterSeq: 0) { seq content author { nickname } } }`, map[string]any{"id": id})
			s.mustSend(bob, id, "there is room")
			if got := o.message(t); got != "2 there is room by Bob" {
				t.Errorf("got %s", got)
			}
			return
		}
	}
}
