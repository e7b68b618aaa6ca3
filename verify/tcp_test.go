package verify

import (
	"bufio"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mustEcho starts a server that returns each line after its own name.
func mustEcho(t *testing.T, name string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				_, _ = io.WriteString(conn, name+lines.Text()+"\n")
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// asked returns the answer to a line: empty if the connection has ended.
func asked(conn net.Conn, line string) string {
	_, _ = io.WriteString(conn, line+"\n")
	answer, _ := bufio.NewReader(conn).ReadString('\n')
	return answer
}

func mustDialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestRelay(t *testing.T) {
	t.Parallel()
	first, second := mustEcho(t, "first "), mustEcho(t, "second ")
	r, err := listenRelay(first)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	conn := mustDialTCP(t, r.address())
	defer func() { _ = conn.Close() }()
	if got := asked(conn, "a"); got != "first a\n" {
		t.Errorf("%q", got)
	}
	r.redirect("")
	if got := asked(conn, "b"); got != "" {
		t.Errorf("after the cut: %q", got)
	}
	cut := mustDialTCP(t, r.address())
	defer func() { _ = cut.Close() }()
	if got := asked(cut, "c"); got != "" {
		t.Errorf("while it is cut: %q", got)
	}
	r.redirect(second)
	again := mustDialTCP(t, r.address())
	defer func() { _ = again.Close() }()
	if got := asked(again, "d"); got != "second d\n" {
		t.Errorf("%q", got)
	}
}

// A connection is cut after so many bytes, and the other side sees a reset.
func TestCut(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	w := &tcpConn{Conn: mustDialTCP(t, l.Addr().String())}
	w.budget.Store(7)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	if _, err := io.WriteString(server, "0123456789"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(w)
	if string(got) != "0123456" || !errors.Is(err, errCut) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side: %v", err)
	}
}
