package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/executor"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"go.uber.org/goleak"

	"parley/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that waits for something that never happens. It does not measure speed.
const patience = 30 * time.Second

const testSchema = `
type Query { name: String! broken: String }
type Mutation { rename(to: String): String! }
type Subscription { ticks(to: Int!): Int! silence: Int! fails: Int! refused: Int! panics: Int! delegated: Int! }`

// schema is an executable schema that is not generated.
type schema struct{ definitions *ast.Schema }

func (s schema) Schema() *ast.Schema { return s.definitions }

func (schema) Complexity(context.Context, string, string, int, map[string]any) (int, bool) {
	return 0, false
}

func (schema) Exec(ctx context.Context) graphql.ResponseHandler { return execute(ctx) }

// unprepared panics before an operation of this name starts.
type unprepared struct{}

func (unprepared) ExtensionName() string                   { return "unprepared" }
func (unprepared) Validate(graphql.ExecutableSchema) error { return nil }

func (unprepared) MutateOperationContext(
	_ context.Context, oc *graphql.OperationContext,
) *gqlerror.Error {
	if oc.OperationName == "unprepared" {
		panic("too early")
	}
	return nil
}

// fixture is a server of a small schema, and records the calls of its Options.
type fixture struct {
	t         *testing.T
	url       string
	dialTo    func() (net.Conn, error)
	server    *Server
	delegated chan *Operation // subscriptions to "delegated", which Options.Subscribe takes over

	// For sockets with the token "waits": executing receives when an operation is executed, which
	// then waits for goOn.
	executing, goOn chan struct{}

	mu      sync.Mutex
	ends    []func(error) // the arguments of OnConnect, one for each connection
	release int           // calls of the functions that OnConnect has returned
}

func mustServe(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	f := newFixture(t, change...)
	listening := httptest.NewServer(f)
	f.url = listening.URL
	f.dialTo = func() (net.Conn, error) {
		conn, err := net.Dial("tcp", listening.Listener.Addr().String())
		if err == nil {
			err = conn.SetDeadline(time.Now().Add(patience))
		}
		return conn, err
	}
	t.Cleanup(func() {
		f.server.Drain(context.Background())
		listening.Close()
	})
	return f
}

func newFixture(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, delegated: make(chan *Operation, 1000), executing: make(chan struct{}),
		goOn: make(chan struct{}),
	}
	exec := executor.New(schema{gqlparser.MustLoadSchema(&ast.Source{Input: testSchema})})
	exec.SetErrorPresenter(present)
	exec.Use(unprepared{})
	opts := Options{
		Exec: exec, Present: present,
		Detach: func(context.Context) context.Context { return context.Background() },
		Init: func(ctx context.Context, params map[string]any) (context.Context, error) {
			switch params["token"] {
			case "bad":
				return nil, errs.New(errs.Unauthenticated, "The token is not valid.")
			case "later":
				return nil, errs.New(errs.Unavailable, "Try again.")
			case "panic":
				panic("in Init")
			case "waits":
				ctx = context.WithValue(ctx, waitsKey{}, f)
			case "slow": // until the client disconnects
				<-ctx.Done()
			}
			return ctx, nil
		},
		OnConnect: f.hold,
		SameCaller: func(_, request context.Context) bool {
			return request.Value(otherAccountKey{}) == nil
		},
		Subscribe: func(_ context.Context, op *Operation, oc *graphql.OperationContext) bool {
			if rootField(oc) != "delegated" {
				return false
			}
			f.delegated <- op
			return true
		},
	}
	for _, fn := range change {
		fn(&opts)
	}
	f.server = New(opts)
	return f
}

func (f *fixture) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Other-Account") != "" {
		r = r.WithContext(context.WithValue(r.Context(), otherAccountKey{}, true))
	}
	f.server.ServeHTTP(rw, r)
}

type (
	otherAccountKey struct{}
	waitsKey        struct{}
)

func (f *fixture) hold(_ context.Context, end func(error)) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends = append(f.ends, end)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.release++
	}
}

// endOf returns the function that ends the i-th connection.
func (f *fixture) endOf(i int) func(error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends[i]
}

func present(_ context.Context, err error) *gqlerror.Error {
	if e, ok := errors.AsType[*gqlerror.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return coded(e.Code, "%s", e.Message)
	}
	return coded(errs.Internal, "Something went wrong.")
}

func rootField(oc *graphql.OperationContext) string {
	return oc.Operation.SelectionSet[0].(*ast.Field).Name
}

func execute(ctx context.Context) graphql.ResponseHandler {
	oc := graphql.GetOperationContext(ctx)
	data := func(v any) *graphql.Response {
		return &graphql.Response{Data: mustMarshal(map[string]any{rootField(oc): v})}
	}
	switch rootField(oc) {
	case "name", "rename":
		if f, ok := ctx.Value(waitsKey{}).(*fixture); ok {
			f.executing <- struct{}{}
			select {
			case <-f.goOn:
			case <-ctx.Done():
			}
		}
		return graphql.OneShot(data("parley"))
	case "broken":
		r := data(nil)
		r.Errors = gqlerror.List{coded(errs.NotFound, "There is none.")}
		return graphql.OneShot(r)
	case "ticks":
		to, n := oc.Operation.SelectionSet[0].(*ast.Field).ArgumentMap(oc.Variables)["to"], 0
		return func(ctx context.Context) *graphql.Response {
			if n++; ctx.Err() != nil || fmt.Sprint(n-1) == fmt.Sprint(to) {
				return nil
			}
			return data(n)
		}
	case "silence":
		return func(ctx context.Context) *graphql.Response {
			<-ctx.Done()
			return nil
		}
	case "fails":
		first := true
		return func(ctx context.Context) *graphql.Response {
			if first {
				first = false
				return data(1)
			}
			Fail(ctx, errs.New(errs.Forbidden, "No more."))
			return nil
		}
	case "refused":
		return graphql.OneShot(&graphql.Response{
			Errors: gqlerror.List{coded(errs.NotFound, "There is none.")},
		})
	case "panics":
		panic("at the disco")
	}
	return func(context.Context) *graphql.Response { return nil }
}

// client is a WebSocket that can also break the protocol.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// connect opens a connection, and sends nothing.
func (f *fixture) connect() net.Conn {
	f.t.Helper()
	conn, err := f.dialTo()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (f *fixture) tryDial(headers ...string) (*client, *http.Response) {
	f.t.Helper()
	conn := f.connect()
	lines := append([]string{
		"GET / HTTP/1.1", "Host: parley", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol: other, " + Subprotocol,
	}, headers...)
	for i, h := range headers { // each replaces a default header; without a value, it removes that
		name, value, _ := strings.Cut(h, ":")
		for j, line := range lines[:7] {
			if strings.HasPrefix(line, name) {
				lines[j], lines[7+i] = h, "X: x"
				if strings.TrimSpace(value) == "" {
					lines[j] = "X: x"
				}
			}
		}
	}
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		f.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return &client{f.t, conn, r}, res
}

func (f *fixture) dial(headers ...string) *client {
	f.t.Helper()
	c, res := f.tryDial(headers...)
	if res.StatusCode != http.StatusSwitchingProtocols {
		f.t.Fatalf("got %s", res.Status)
	}
	return c
}

// open dials, and initialises the connection.
func (f *fixture) open(headers ...string) *client {
	f.t.Helper()
	c := f.dial(headers...)
	c.send(`{"type":"connection_init"}`)
	c.want(`{"type":"connection_ack"}`)
	return c
}

// frameOf returns a frame of a client.
func frameOf(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, maskBit|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, maskBit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, maskBit|127), uint64(n))
	}
	mask := [4]byte{0xA1, 0x00, 0xC3, 0xF7}
	b = append(b, mask[:]...)
	body := []byte(payload)
	for i := range body {
		body[i] ^= mask[i%4]
	}
	return append(b, body...)
}

func (c *client) raw(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) send(text string) {
	c.t.Helper()
	c.raw(frameOf(finBit|opText, text))
}

// read reads the next frame, and checks that the server may send it (RFC 6455).
func (c *client) read() (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&finBit == 0 || head[0]&reservedBits != 0 || head[1]&maskBit != 0 {
		c.t.Errorf("the server's frame begins with %x", head)
	}
	size := uint64(head[1])
	var long [8]byte
	switch size {
	case 126:
		_, err = io.ReadFull(c.r, long[6:])
		size = binary.BigEndian.Uint64(long[:])
	case 127:
		_, err = io.ReadFull(c.r, long[:])
		size = binary.BigEndian.Uint64(long[:])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(c.r, payload)
	if head[0]&compressedBit != 0 && err == nil {
		payload, err = inflate(payload, 1<<20)
	}
	return head[0] & 0x0F, payload, err
}

// want reads the next frame, which has to be this message.
func (c *client) want(text string) {
	c.t.Helper()
	opcode, payload, err := c.read()
	if err != nil {
		c.t.Fatal(err)
	}
	if opcode != opText || string(payload) != text {
		if opcode == opClose && len(payload) > 1 {
			c.t.Fatalf("closed with %d %s, want %s", binary.BigEndian.Uint16(payload), payload[2:],
				text)
		}
		c.t.Fatalf("got %d %q, want %s", opcode, payload, text)
	}
}

// closed reads the next frame, which has to be a close frame and the last one, and returns its code
// and reason.
func (c *client) closed() (code int, reason string) {
	c.t.Helper()
	opcode, payload, err := c.read()
	if err != nil {
		c.t.Fatalf("instead of a close frame: %v", err)
	}
	if opcode != opClose {
		c.t.Fatalf("got %d %q, want a close frame", opcode, payload)
	}
	if _, _, err := c.read(); !errors.Is(err, io.EOF) {
		c.t.Errorf("after the close frame: %v", err)
	}
	if len(payload) < 2 {
		return closeNoStatus, ""
	}
	return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
}

// eventually waits until a condition is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func subscribe(id, query string) string {
	return string(mustMarshal(map[string]any{
		"id": id, "type": "subscribe",
		"payload": map[string]any{"query": query},
	}))
}

func tick(id string, n int) string {
	return fmt.Sprintf(`{"id":%s,"type":"next","payload":{"data":{"ticks":%d}}}`, mustMarshal(id),
		n)
}

func complete(
	id string,
) string {
	return fmt.Sprintf(`{"id":%s,"type":"complete"}`, mustMarshal(id))
}

func failed(id, code, message string) string {
	list := gqlerror.List{{Message: message, Extensions: map[string]any{"code": code}}}
	return fmt.Sprintf(`{"id":%s,"type":"error","payload":%s}`, mustMarshal(id), mustMarshal(list))
}

// request sends a request over HTTP.
func (f *fixture) request(
	method, query, body string, header http.Header,
) (status int, answer string) {
	f.t.Helper()
	res := f.do(method, query, body, header)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func (f *fixture) do(method, query, body string, header http.Header) *http.Response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+query,
		strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	transport := new(http.Transport)
	f.t.Cleanup(transport.CloseIdleConnections)
	res, err := transport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	return res
}
