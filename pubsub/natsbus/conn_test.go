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
	want := [2]int{connectedLines, awayLines}
	if got := [2]int{n.log.lines(connected), n.log.lines(away)}; got != want {
		n.t.Errorf("the log has %v lines of connections and outages, want %v:\n%s",
			got, want, n.log)
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
	eventually(t, "they try again", func() bool { return s.Tries() > tried+6 })
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
		n.waitMissedAll() // when the connection is up, or when the other node reports what it lost
		n.wantLog(2, 1)
		n.synced()
	}
	nodes[0].bus.PublishRemote("a", "after")
	nodes[0].bus.PublishRemote("b", "after")
	nodes[1].want(sub, "after")
	nodes[1].want(late, "after")
}

// One node is cut off while another is connected. When it is back, it reports to the other that
// messages may be lost.
func TestANodeThatIsBackReportsLostMessages(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	there := mustNodes(t, s, 1)[0]
	forward := natstest.MustForward(t, s)
	n := mustNode(t, forward.URL())
	n.waitMissedAll()
	forward.Stop()
	eventually(t, "it is away", func() bool { return !n.Status().Connected })
	forward.Start()
	n.waitMissedAll()
	there.waitMissedAll()
	there.wantLog(1, 0)
}

func TestNATSMayStartLater(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	s.Stop()
	n, other := mustNode(t, s.URL()), mustNode(t, s.URL())
	sub := n.listen("a", 10)
	left := n.listen("left", 10)
	eventually(t, "they try again", func() bool { return s.Tries() > 6 })
	left.Close()
	n.wantLog(0, 1)
	if got := n.Status(); got.Connected || got.Reason == "" {
		t.Errorf("status %+v", got)
	}
	s.Start()
	n.waitMissedAll()
	other.waitMissedAll()
	n.wantLog(1, 1)
	other.bus.PublishRemote("a", "hello")
	n.want(sub, "hello")
	if topics := s.Subscriptions("parley.test.topic."); len(topics) != 1 {
		t.Errorf("subscribed to %v", topics)
	}
}

func TestCloseDoesNotWaitForAServerThatHangs(t *testing.T) {
	t.Parallel()
	s := natstest.MustStart(t)
	s.Hang()
	n := mustNode(t, s.URL()) // connects, and gets no greeting
	eventually(t, "it tries", func() bool { return s.Tries() > 0 })
	n.stop()
	n.wantLog(0, 0) // Close is not an outage
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
			n.waitMissedAll()
		} else {
			// nats.go gives up after two refusals.
			eventually(t, "it goes on trying",
				func() bool { return s.Tries()+token.Tries() > tried+6 })
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

// NATS reports a missing permission for each message. The log has it once.
func TestForbiddenSubjectsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	none := &server.SubjectPermission{Deny: []string{">"}}
	s := natstest.MustStartWith(t, server.Options{Users: []*server.User{
		{
			Username: "ann", Password: "pw",
			Permissions: &server.Permissions{Publish: none, Subscribe: none},
		},
	}})
	n := mustNode(t, "nats://ann:pw@"+s.Addr())
	n.waitMissedAll()
	for i := range 50 {
		n.bus.PublishRemote("a", "not allowed")
		n.listen(string(rune('a'+i%26)), 1).Close()
	}
	eventually(t, "it is logged", func() bool { return n.log.lines("reports an error") > 0 })
	n.synced()
	if n.log.lines("reports an error") != 1 {
		t.Error(n.log)
	}
}

// nats.go gives up for good after an error that it does not know. The node connects again.
func TestAnUnknownErrorOfTheServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			serveUnknownError(conn)
		}
	}()
	n := mustNode(t, "nats://"+listener.Addr().String())
	for range 4 {
		<-accepted
	}
	n.stop()
	_ = listener.Close()
	<-done
}

// serveUnknownError greets as a NATS server does
// (https://docs.nats.io/reference/reference-protocols/nats-protocol) and then sends an error.
func serveUnknownError(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	const info = `INFO {"server_id":"x","version":"2.0.0","proto":1,"max_payload":1048576}`
	if _, err := io.WriteString(conn, info+"\r\n"); err != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "PING") {
			_, _ = io.WriteString(conn, "PONG\r\n-ERR 'Something New'\r\n")
		}
	}
}

func TestOpenRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "127.0.0.1:4222", "http://h:4222", "nats://", "nats://:4222", "nats://ann:pw%zz@h",
		"nats://ann:p/w@h", "nats://h/x", "ws://h",
	} {
		_, err := natsbus.Open(natsbus.Options{URLs: []string{"nats://127.0.0.1:1", url}})
		if err == nil || !strings.Contains(err.Error(), "address 2") ||
			strings.Contains(err.Error(), "ann") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, prefix := range []string{"a b", ".", "a.", "*", "a.>", "$SYS"} {
		opts := natsbus.Options{URLs: []string{"nats://127.0.0.1:1"}, Prefix: prefix}
		if _, err := natsbus.Open(opts); err == nil {
			t.Errorf("prefix %q was accepted", prefix)
		}
	}
	if _, err := natsbus.Open(natsbus.Options{}); err == nil {
		t.Error("no addresses were accepted")
	}
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"nats://ann:pw@h:4222": "nats://h:4222", "tls://token@h": "tls://h",
		"nats://h:1": "nats://h:1", "nats://a:%zz@h": "(not an address)",
	} {
		if got := natsbus.Redacted(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}
