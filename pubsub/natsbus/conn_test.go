package natsbus_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"parley/pubsub/natsbus"
	"parley/pubsub/natsbus/natstest"
)

const (
	connected = "NATS is connected"
	away      = "NATS is away"
)

func (n *node) wantLog(connectedLines, awayLines int) {
	n.t.Helper()
	if got := [2]int{n.log.lines(connected), n.log.lines(away)}; got != [2]int{connectedLines, awayLines} {
		n.t.Errorf("the log says %v times that NATS is there, and away:\n%s", got, n.log)
	}
}

func TestAnOutage(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	nodes := mustNodes(t, s, 2)
	sub := nodes[1].subscribe("a")
	nodes[0].bus.PublishRemote("a", "before")
	nodes[1].want(sub, "before")
	for _, n := range nodes {
		n.wantLog(1, 0)
		if got := n.Status(); !got.Connected || got.Reason != "" || got.Since.IsZero() {
			t.Errorf("status %+v", got)
		}
	}

	s.Stop()
	for _, n := range nodes {
		eventually(t, "the outage is noticed", func() bool { return !n.Status().Connected })
	}
	tried := s.Tries()
	nodes[0].bus.PublishRemote("a", "into the void")
	eventually(t, "it is counted", func() bool { return nodes[0].Status().Dropped == 1 })
	eventually(t, "they try again and again", func() bool { return s.Tries() > tried+6 })
	late := nodes[1].listen("b", 10)
	for _, n := range nodes {
		n.wantLog(1, 1)
		if got := n.Status(); got.Reason == "" {
			t.Errorf("status %+v", got)
		}
	}

	s.Start()
	for _, n := range nodes {
		eventually(t, "the node is connected", func() bool { return n.Status().Connected })
		n.joined() // when the connection is up, or when the other node reports what it lost
		n.wantLog(2, 1)
		n.settled()
	}
	nodes[0].bus.PublishRemote("a", "after")
	nodes[0].bus.PublishRemote("b", "after")
	nodes[1].want(sub, "after")
	nodes[1].want(late, "after")
}

// TestWhoComesBackLaterTellsTheOthers has one node away while another is connected: what the first
// could not tell is repaired on the second when the first is back, and not before the second knows.
func TestWhoComesBackLaterTellsTheOthers(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	there := mustNodes(t, s, 1)[0]
	// Each node has a way of its own to the same server.
	way := natstest.MustForward(t, s)
	n := mustNode(t, way.URL())
	n.joined()
	way.Stop()
	eventually(t, "it is away", func() bool { return !n.Status().Connected })
	way.Start()
	n.joined()
	there.joined()
	there.wantLog(1, 0)
}

func TestNATSMayComeLater(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	s.Stop()
	n, other := mustNode(t, s.URL()), mustNode(t, s.URL())
	sub := n.listen("a", 10)
	gone := n.listen("gone", 10)
	eventually(t, "they try again and again", func() bool { return s.Tries() > 6 })
	gone.Close()
	n.wantLog(0, 1)
	if got := n.Status(); got.Connected || got.Reason == "" {
		t.Errorf("status %+v", got)
	}
	s.Start()
	n.joined()
	other.joined()
	n.wantLog(1, 1)
	other.bus.PublishRemote("a", "hello")
	n.want(sub, "hello")
	if topics := s.Subscriptions("parley.test.topic."); len(topics) != 1 {
		t.Errorf("subscribed to %v", topics)
	}
}

// TestACloseDoesNotWaitForWhatHangs closes while the client is dialling, or shaking hands, or knows
// of no hanging.
func TestACloseDoesNotWaitForWhatHangs(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	s.Hang()
	n := mustNode(t, s.URL()) // connects, and gets no greeting
	eventually(t, "it tries", func() bool { return s.Tries() > 0 })
	n.stop()
	n.wantLog(0, 0) // what ends on purpose is not away
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := natstest.MustStartWith(t, server.Options{Username: "ann", Password: "correct"})
	token := natstest.MustStartWith(t, server.Options{Authorization: "s3cr3t"})
	for url, right := range map[string]bool{
		"nats://ann:correct@" + s.Addr():  true,
		"nats://ann:wr0ng@" + s.Addr():    false,
		"nats://s3cr3t@" + token.Addr():   true,
		"nats://wr0ng@" + token.Addr():    false,
		"nats://:correct@" + token.Addr(): false,
	} {
		tried := s.Tries() + token.Tries()
		n := mustNode(t, url)
		if right {
			n.joined()
		} else {
			// The client would give up after the same answer came twice.
			eventually(t, "it goes on trying", func() bool { return s.Tries()+token.Tries() > tried+6 })
		}
		n.stop()
		if got := n.log.lines(connected); (got == 1) != right {
			t.Errorf("%s:\n%s", url, n.log)
		}
		for _, secret := range []string{"ann", "correct", "wr0ng", "s3cr3t"} {
			if n.log.lines(secret) > 0 {
				t.Errorf("%s is in the log:\n%s", secret, n.log)
			}
		}
	}
}

// TestForbiddenSubjects checks that a lack of rights is said, but once: NATS says it for each
// message.
func TestForbiddenSubjects(t *testing.T) {
	t.Parallel()
	none := &server.SubjectPermission{Deny: []string{">"}}
	s := natstest.MustStartWith(t, server.Options{Users: []*server.User{
		{Username: "ann", Password: "pw", Permissions: &server.Permissions{Publish: none, Subscribe: none}},
	}})
	n := mustNode(t, "nats://ann:pw@"+s.Addr())
	n.joined()
	for i := range 50 {
		n.bus.PublishRemote("a", "not allowed")
		n.listen(string(rune('a'+i%26)), 1).Close()
	}
	eventually(t, "it is said", func() bool { return n.log.lines("complains") > 0 })
	n.settled()
	if n.log.lines("complains") != 1 {
		t.Error(n.log)
	}
}

// TestAServerThatSaysSomethingNew has a server say what the client answers by giving up for good.
// The node does not.
func TestAServerThatSaysSomethingNew(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			came <- struct{}{}
			serveStrangely(conn)
		}
	}()
	n := mustNode(t, "nats://"+listener.Addr().String())
	for range 4 {
		<-came
	}
	n.stop()
	_ = listener.Close()
	<-done
}

// serveStrangely greets as NATS does
// (https://docs.nats.io/reference/reference-protocols/nats-protocol), and then says no.
func serveStrangely(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, `INFO {"server_id":"x","version":"2.0.0","proto":1,"max_payload":1048576}`+"\r\n"); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "PING") {
			_, _ = io.WriteString(conn, "PONG\r\n-ERR 'Something New'\r\n")
		}
	}
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "127.0.0.1:4222", "http://h:4222", "nats://", "nats://:4222", "nats://ann:pw%zz@h", "nats://ann:p/w@h", "nats://h/x", "ws://h",
	} {
		_, err := natsbus.Open(natsbus.Options{URLs: []string{"nats://127.0.0.1:1", url}})
		if err == nil || !strings.Contains(err.Error(), "address 2") || strings.Contains(err.Error(), "ann") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, prefix := range []string{"a b", ".", "a.", "*", "a.>", "$SYS"} {
		if _, err := natsbus.Open(natsbus.Options{URLs: []string{"nats://127.0.0.1:1"}, Prefix: prefix}); err == nil {
			t.Errorf("prefix %q was taken", prefix)
		}
	}
	if _, err := natsbus.Open(natsbus.Options{}); err == nil {
		t.Error("no address was taken")
	}
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"nats://ann:pw@h:4222": "nats://h:4222", "tls://token@h": "tls://h", "nats://h:1": "nats://h:1", "nats://a:%zz@h": "(not an address)",
	} {
		if got := natsbus.Redacted(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}
