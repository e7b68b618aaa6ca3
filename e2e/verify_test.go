package e2e

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"parley/store/storetest"
)

// verify runs `parley verify`, and returns what it has printed and its exit code. When the test ends before it, it gets the
// signal that has it stop in order.
func verify(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(os.Getenv(binaryEnv), append([]string{"verify"}, args...)...)
	cmd.Env = environment("GORACE=atexit_sleep_ms=0")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-t.Context().Done():
		_ = p.Process.Signal(syscall.SIGTERM)
		<-p.ended
	}
	return said.String(), p.ProcessState.ExitCode()
}

// TestVerifyChaos is the promise, for a minute, on a cluster where everything breaks. The output has the seed.
func TestVerifyChaos(t *testing.T) {
	t.Parallel()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	nats := filepath.Join(t.TempDir(), "nats-server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", nats, "github.com/nats-io/nats-server/v2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	// Less than the default, because the nodes have the race detector in them, and share the machine with the other tests.
	out, code := verify(t, "--chaos", "--for=60s", "--nats-server="+nats,
		"--conversations=10", "--people=20", "--followers=30", "--rate=30")
	if code != 0 {
		t.Errorf("verify has ended with %d:\n%s", code, out)
	}
}

// TestVerifyRefused checks that it is said plainly why a server cannot be verified.
func TestVerifyRefused(t *testing.T) {
	t.Parallel()
	srv := mustServe(t, "PARLEY_REGISTRATION=closed")
	out, code := verify(t, srv.page)
	if code != 1 || !strings.Contains(out, "registration has to be open") || !strings.Contains(out, "FORBIDDEN") {
		t.Errorf("verify has ended with %d:\n%s", code, out)
	}
}

// TestVerifyFindsWhatIsBroken puts a liar between a server and verify: one that passes everything on, but for some messages
// of the streams.
func TestVerifyFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	srv := mustServe(t, "PARLEY_RATE_LIMITS=false")
	for name, lie := range map[string]lie{
		"kept":      nil,
		"lost":      func([]byte) (now [][]byte, later []byte) { return nil, nil },
		"doubled":   func(frame []byte) (now [][]byte, later []byte) { return [][]byte{frame, frame}, nil },
		"reordered": func(frame []byte) (now [][]byte, later []byte) { return nil, frame },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := mustLie(t, srv.api, lie)
			out, code := verify(t, l.url, "--for=5s", "--seed=1", "--conversations=2", "--people=6", "--followers=6", "--rate=30")
			told := strings.Contains(out, "The first violation: "+name)
			if name == "reordered" { // what is overtaken is missing first, and comes then
				told = strings.Contains(out, "The first violation: lost") && !strings.Contains(out, "     0  reordered")
			}
			switch {
			case lie == nil && (code != 0 || !strings.Contains(out, "The promise was kept (seed 1).")):
				t.Errorf("nothing was broken, and verify has ended with %d:\n%s", code, out)
			case lie != nil && (code != 1 || !told || !strings.Contains(out, "--seed 1")):
				t.Errorf("messages were %s, and verify has ended with %d:\n%s", name, code, out)
			}
		})
	}
}

// liar passes WebSockets on, and does something else with every twentieth message of the streams.
type liar struct {
	url      string
	upstream string
	lie      lie
	open     sync.WaitGroup
	passed   atomic.Int64
}

// lie is what becomes of a message: what is passed on instead, and what comes behind the next one.
type lie func(frame []byte) (now [][]byte, later []byte)

func mustLie(t *testing.T, api string, lie lie) *liar {
	t.Helper()
	l := &liar{upstream: api, lie: lie}
	target, err := url.Parse(api)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host}) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			proxy.ServeHTTP(w, r)
			return
		}
		l.open.Add(1)
		defer l.open.Done()
		l.pass(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		l.open.Wait()
	})
	l.url = server.URL
	return l
}

func (l *liar) pass(w http.ResponseWriter, r *http.Request) {
	const protocol = "graphql-transport-ws"
	client, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
	if err != nil {
		return
	}
	defer func() { _ = client.CloseNow() }()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	server, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(l.upstream, "http"), &websocket.DialOptions{
		Subprotocols: []string{protocol},
	})
	if err != nil {
		return
	}
	defer func() { _ = server.CloseNow() }()
	server.SetReadLimit(1 << 20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.copyFrames(ctx, server, client, func(frame []byte) [][]byte { return [][]byte{frame} })
	}()
	var later []byte
	l.copyFrames(ctx, client, server, func(frame []byte) (now [][]byte) {
		now, later = l.twisted(frame, later)
		return now
	})
	cancel()
	<-done
}

// copyFrames ends both connections when one ends, with the code of that.
func (l *liar) copyFrames(ctx context.Context, to, from *websocket.Conn, twist func([]byte) [][]byte) {
	for {
		kind, frame, err := from.Read(ctx)
		if err != nil {
			if e, ok := errors.AsType[websocket.CloseError](err); ok {
				_ = to.Close(e.Code, e.Reason)
			}
			_ = to.CloseNow()
			return
		}
		for _, frame := range twist(frame) {
			if to.Write(ctx, kind, frame) != nil {
				_ = from.CloseNow()
				return
			}
		}
	}
}

// twisted is what becomes of a frame, when another one waits to come behind it.
func (l *liar) twisted(frame, waiting []byte) (now [][]byte, later []byte) {
	switch {
	case l.lie == nil || !bytes.Contains(frame, []byte(`"messageAdded"`)):
		return [][]byte{frame}, waiting
	case waiting != nil:
		return [][]byte{frame, waiting}, nil
	case l.passed.Add(1)%20 == 0:
		return l.lie(bytes.Clone(frame))
	}
	return [][]byte{frame}, nil
}
