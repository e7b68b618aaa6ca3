package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"parley/seed"
)

const (
	subprotocol = "graphql-transport-ws"
	// wireRate is messages per second: few enough that nothing has to wait, the clients in this process included.
	wireRate = 5
)

// overTheWire measures the built server with its WebSocket clients beside a server that only writes to raw WebSockets.
func (b *bench) overTheWire(ctx context.Context) error {
	b.note("over the wire: building the server")
	parley := &parleyServer{binary: filepath.Join(b.dir, "parley"), dir: filepath.Join(b.dir, "wire")}
	if err := parley.build(ctx); err != nil {
		return err
	}
	if err := parley.populate(ctx); err != nil {
		return err
	}
	t := table{head: []string{
		"what each follower asks for", "frame", "deliveries", "lost", "doubled", "reordered",
		"CPU for a delivery, Parley", "raw WebSockets", "ratio", "memory for a connection, Parley", "raw", "ratio",
	}}
	var broken error
	for _, fields := range []string{"id seq content createdAt", "id seq content createdAt author { id nickname }"} {
		b.note("over the wire: %s", fields)
		parley.fields = fields
		row, found, err := b.wirePair(ctx, parley)
		if broken = errors.Join(broken, found.broken()); err != nil {
			return errors.Join(err, broken)
		}
		t.add(row...)
	}
	b.printf("\n## Following, over the wire\n\n")
	b.printf("%d graphql-transport-ws clients that follow one conversation of the built server, on SQLite, at %d messages a second,\n",
		followers, wireRate)
	b.printf("beside a server that writes frames of the same size to as many raw WebSockets and does nothing else. CPU time of the\n")
	b.printf("server for one delivery, receiving and storing the messages included; and by how much its resident memory grows with\n")
	b.printf("each connection that is open, subscribed and idle.\n\n")
	t.print(b.out)
	return broken
}

func (b *bench) wirePair(ctx context.Context, parley *parleyServer) (row []string, found account, err error) {
	if err := parley.start(ctx); err != nil {
		return nil, found, err
	}
	defer parley.stop()
	raw, err := startYardstick(ctx)
	if err != nil {
		return nil, found, err
	}
	defer raw.stop()

	after := parley.seq
	toParley, err := connectAll(ctx, parley.child, after, parley.subscribe)
	if err != nil {
		return nil, found, err
	}
	defer toParley.close()
	toRaw, err := connectAll(ctx, raw, after, nil)
	if err != nil {
		return nil, found, err
	}
	defer toRaw.close()

	// The first message does not count: it shows what a frame looks like, and that everybody listens.
	toParley.arrivals.expect(followers)
	if err := parley.send(ctx); err != nil {
		return nil, found, err
	}
	if err := toParley.arrivals.wait(ctx); err != nil {
		return nil, found, err
	}
	frame := <-toParley.sample
	rawSeq := after
	sendRaw := func(ctx context.Context) error {
		rawSeq++
		_, err := post(ctx, raw.url, "", withSeq(frame, rawSeq))
		return err
	}
	toRaw.arrivals.expect(followers)
	if err := sendRaw(ctx); err != nil {
		return nil, found, err
	}
	if err := toRaw.arrivals.wait(ctx); err != nil {
		return nil, found, err
	}

	messages := int(b.wireTime.Seconds() * wireRate)
	ofParley, ofRaw, err := inTurns(b.rounds,
		func() (float64, error) { return toParley.round(ctx, messages, parley.send) },
		func() (float64, error) { return toRaw.round(ctx, messages, sendRaw) })
	time.Sleep(afterthought)
	toParley.close()
	toRaw.close()
	found = settle(toParley.ledgers, parley.seq)
	if err = errors.Join(err, settle(toRaw.ledgers, rawSeq).broken()); err != nil {
		return nil, found, err
	}
	cpu := pair{ofParley, ofRaw}
	return append(append([]string{"`" + parley.fields + "`", fmt.Sprintf("%d B", len(frame))}, found.cells()...),
		medianDuration(cpu.parley), medianDuration(cpu.yardstick), cpu.ratio(),
		kilobytes(toParley.memory), kilobytes(toRaw.memory), fmt.Sprintf("%.1f", toParley.memory/toRaw.memory)), found, nil
}

func kilobytes(b float64) string { return fmt.Sprintf("%.1f KiB", b/1024) }

// parleyServer is the built server, which may be started again with what it has stored.
type parleyServer struct {
	*child
	binary, dir  string
	database     string   // its URL, where it is not the one in dir
	fields       string   // what each follower asks for
	tokens       []string // the members' access tokens; the first is the sender's
	conversation string
	seq          int64 // of the conversation's newest event
}

// start begins with the memory of a server that has done nothing yet.
func (p *parleyServer) build(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", p.binary, "parley").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

func (p *parleyServer) start(ctx context.Context) (err error) {
	cmd := exec.Command(p.binary) //nolint:noctx // ended by stop
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "PARLEY_") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	cmd.Env = append(cmd.Env, "PARLEY_ADDR=127.0.0.1:0", "PARLEY_DATA_DIR="+p.dir, "PARLEY_LOG_FORMAT=json", "PARLEY_MAX_SOCKETS=1000000")
	if p.database != "" {
		cmd.Env = append(cmd.Env, "PARLEY_DATABASE_URL="+p.database)
	}
	p.child, err = startChild(ctx, cmd, func(line string) string {
		var entry struct{ Msg, API string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "parley is up" {
			return ""
		}
		return entry.API
	})
	return err
}

// wirePeople is how many people follow, each on several devices, because a real password's price is paid for each of them.
const wirePeople = 20

// populate registers people, and makes their conversation.
func (p *parleyServer) populate(ctx context.Context) error {
	if err := p.start(ctx); err != nil {
		return err
	}
	defer p.stop()
	type object = map[string]any
	var members []object
	for i := range wirePeople {
		name := fmt.Sprintf("person%d", i)
		var answer struct {
			Register struct {
				Tokens *struct{ AccessToken string }
				Viewer *struct{ User struct{ ID string } }
			}
		}
		err := p.ask(ctx, "mutation ($in: RegisterInput!) { register(input: $in) { tokens { accessToken } viewer { user { id } } } }",
			object{"email": name + "@example.org", "nickname": name, "password": rand.Text()}, &answer)
		if err != nil {
			return err
		}
		if answer.Register.Tokens == nil || answer.Register.Viewer == nil {
			return errors.New("nobody was registered")
		}
		p.tokens = append(p.tokens, answer.Register.Tokens.AccessToken)
		members = append(members, object{"userId": answer.Register.Viewer.User.ID})
	}
	var answer struct {
		CreateConversation struct {
			Conversation *struct {
				ID      string
				LastSeq int64
			}
		}
	}
	err := p.ask(ctx, "mutation ($in: CreateConversationInput!) { createConversation(input: $in) { conversation { id lastSeq } } }",
		object{"title": "Everybody", "members": members}, &answer)
	if err != nil {
		return err
	}
	made := answer.CreateConversation.Conversation
	if made == nil {
		return errors.New("no conversation was made")
	}
	p.conversation, p.seq = made.ID, made.LastSeq
	return nil
}

// ask runs a mutation with one variable, in, as the first of the people once there is one.
func (p *parleyServer) ask(ctx context.Context, query string, in, data any) error {
	return p.query(ctx, query, map[string]any{"in": in}, data)
}

// login has what follows be asked by somebody whom seed has made.
func (p *parleyServer) login(ctx context.Context, email string) error {
	var answer struct {
		Login struct{ Tokens *struct{ AccessToken string } }
	}
	err := p.ask(ctx, "mutation ($in: LoginInput!) { login(input: $in) { tokens { accessToken } } }",
		map[string]any{"email": email, "password": seed.Password}, &answer)
	if err != nil {
		return err
	}
	if answer.Login.Tokens == nil {
		return fmt.Errorf("%s was not signed in", email)
	}
	p.tokens = []string{answer.Login.Tokens.AccessToken}
	return nil
}

func (p *parleyServer) query(ctx context.Context, query string, variables map[string]any, data any) error {
	request, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return err
	}
	token := ""
	if len(p.tokens) > 0 {
		token = p.tokens[0]
	}
	said, err := post(ctx, p.url, token, request)
	if err != nil {
		return err
	}
	answer := struct {
		Data   any
		Errors json.RawMessage
	}{Data: data}
	if err := json.Unmarshal(said, &answer); err != nil {
		return err
	}
	if answer.Errors != nil {
		return fmt.Errorf("the server answered %s", answer.Errors)
	}
	return nil
}

func (p *parleyServer) send(ctx context.Context) error {
	var answer struct {
		SendMessage struct{ Message *struct{ Seq int64 } }
	}
	err := p.ask(ctx, "mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { seq } } }",
		map[string]any{"conversationId": p.conversation, "content": content}, &answer)
	if err != nil {
		return err
	}
	if answer.SendMessage.Message == nil {
		return errors.New("the message was not sent")
	}
	p.seq = answer.SendMessage.Message.Seq
	return nil
}

// subscribe makes a connection that of a follower.
func (p *parleyServer) subscribe(ctx context.Context, conn *websocket.Conn, follower int) error {
	type object = map[string]any
	say := func(v any) error {
		message, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return conn.Write(ctx, websocket.MessageText, message)
	}
	err := say(object{
		"type": "connection_init", "payload": object{"Authorization": "Bearer " + p.tokens[follower%len(p.tokens)]},
	})
	if err != nil {
		return err
	}
	_, answer, err := conn.Read(ctx)
	if err != nil {
		return err
	}
	if !bytes.Contains(answer, []byte(`"connection_ack"`)) {
		return fmt.Errorf("instead of connection_ack came %s", answer)
	}
	return say(object{"id": "1", "type": "subscribe", "payload": object{
		"query":     "subscription ($id: ID!, $after: Int) { messageAdded(conversationId: $id, afterSeq: $after) { " + p.fields + " } }",
		"variables": object{"id": p.conversation, "after": p.seq},
	}})
}

// post sends JSON and returns the answer's body.
func post(ctx context.Context, url, token string, body []byte) (said []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	said, err = io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, said)
	}
	return said, err
}

// clients are WebSockets to one server that count what they receive.
type clients struct {
	server   *child
	conns    []*websocket.Conn
	ledgers  []*ledger
	arrivals *arrivals
	sample   chan []byte // the first frame that came
	memory   float64     // of the server, in bytes per connection, while they were idle
	running  sync.WaitGroup
	cancel   context.CancelFunc
}

// idleTime is how long connections are left alone before they are weighed.
const idleTime = time.Second

// connectAll opens the connections. after is the newest seq before what is to be received.
func connectAll(
	ctx context.Context, server *child, after int64, subscribe func(context.Context, *websocket.Conn, int) error,
) (*clients, error) {
	before, err := residentMemory(server.process.Pid)
	if err != nil {
		return nil, err
	}
	c := &clients{
		server: server, conns: make([]*websocket.Conn, followers), arrivals: newArrivals(), sample: make(chan []byte, 1),
	}
	ctx, c.cancel = context.WithCancel(ctx)
	err = atOnce(ctx, followers, func(ctx context.Context, i int) error {
		conn, _, err := websocket.Dial(ctx, server.url, &websocket.DialOptions{ //nolint:bodyclose // closed by the library
			Subprotocols: []string{subprotocol}, CompressionMode: websocket.CompressionDisabled,
		})
		if err != nil {
			return err
		}
		c.conns[i] = conn
		if subscribe == nil {
			return nil
		}
		return subscribe(ctx, conn, i)
	})
	if err != nil {
		c.close()
		return nil, err
	}
	for _, conn := range c.conns {
		l := newLedger(after)
		c.ledgers = append(c.ledgers, l)
		c.running.Go(func() { c.receive(ctx, conn, l) })
	}
	time.Sleep(idleTime)
	with, err := residentMemory(server.process.Pid)
	if err != nil {
		c.close()
		return nil, err
	}
	c.memory = float64(with-before) / followers
	return c, nil
}

// receive counts messages until the connection ends. What is missing then shows in the ledger.
func (c *clients) receive(ctx context.Context, conn *websocket.Conn, l *ledger) {
	var frame bytes.Buffer // kept, because the clients share the processors with the server that is measured
	for {
		_, r, err := conn.Reader(ctx)
		if err != nil {
			return
		}
		frame.Reset()
		if _, err := frame.ReadFrom(r); err != nil {
			return
		}
		if seq, ok := seqOf(frame.Bytes()); ok {
			l.add(seq)
			select {
			case c.sample <- bytes.Clone(frame.Bytes()):
			default:
			}
			c.arrivals.arrived()
		} else if bytes.Contains(frame.Bytes(), []byte(`"ping"`)) {
			if err := conn.Write(ctx, websocket.MessageText, []byte(`{"type":"pong"}`)); err != nil {
				return
			}
		}
	}
}

// round sends messages at a steady rate, and returns the server's CPU seconds for one delivery.
func (c *clients) round(ctx context.Context, messages int, send func(context.Context) error) (float64, error) {
	before, err := processCPU(c.server.process.Pid)
	if err != nil {
		return 0, err
	}
	c.arrivals.expect(messages * followers)
	tick := time.NewTicker(time.Second / wireRate)
	defer tick.Stop()
	for range messages {
		if err := send(ctx); err != nil {
			return 0, err
		}
		<-tick.C
	}
	if err := c.arrivals.wait(ctx); err != nil {
		return 0, err
	}
	after, err := processCPU(c.server.process.Pid)
	return (after - before).Seconds() / float64(messages*followers), err
}

// close ends the connections, without the goodbyes that nobody waits for. It may be called more than once.
func (c *clients) close() {
	c.cancel()
	for _, conn := range c.conns {
		if conn != nil {
			_ = conn.CloseNow()
		}
	}
	c.running.Wait()
}

const seqField = `"seq":`

// seqOf finds the seq in a frame of either server without the price of reading it whole.
func seqOf(frame []byte) (int64, bool) {
	_, rest, ok := bytes.Cut(frame, []byte(seqField))
	if !ok {
		return 0, false
	}
	var seq int64
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		seq = seq*10 + int64(digit-'0')
	}
	return seq, true
}

// withSeq is the frame with another seq.
func withSeq(frame []byte, seq int64) []byte {
	before, rest, _ := bytes.Cut(frame, []byte(seqField))
	rest = bytes.TrimLeft(rest, "0123456789")
	return fmt.Appendf(nil, "%s%s%d%s", before, seqField, seq, rest)
}
