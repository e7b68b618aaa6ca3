package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"parley/internal/client"
	"parley/seed"
)

// parleyServer is the built server, or one with the same API and gqlgen's transport for WebSockets.
// It may be started again on its data.
type parleyServer struct {
	*serverProcess
	binary, dir string
	stock       bool     // with gqlgen's transport
	database    string   // its URL; empty for the one in dir
	fields      string   // the selection of each follower
	tokens      []string // the people's access tokens; the first is the sender's
	people      []string // their ids

	conversations []string // by topic

	mu   sync.Mutex // guards seqs
	seqs []int64    // the newest of each topic
}

func (p *parleyServer) title() string {
	if p.stock {
		return "gqlgen's transport"
	}
	return "Parley"
}

// build builds Parley's program with one more file, which serves package debug.
func (p *parleyServer) build(ctx context.Context) error {
	dir := filepath.Dir(p.binary)
	const hook = "package main\n\nimport \"parley/bench/debug\"\n\nfunc init() { debug.Serve() }\n"
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	file, overlay := filepath.Join(dir, "hook.go"), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(strings.TrimSpace(string(module)),
			"bench_hook.go"): file},
	})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(file, []byte(hook), 0o600),
		os.WriteFile(overlay, replaced, 0o600)); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", p.binary, "parley")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

// start starts the server.
func (p *parleyServer) start(ctx context.Context) (err error) {
	var args []string
	if p.stock {
		args = []string{stockArgument}
	}
	var settings []string
	if p.database != "" {
		settings = append(settings, "PARLEY_DATABASE_URL="+p.database)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	p.serverProcess, err = startServer(ctx, p.dir, settings, p.binary, args...)
	return err
}

// begin starts the server, and creates the topics: conversations of as many people as there are
// followers, at most of all.
func (p *parleyServer) begin(ctx context.Context, topics, followers int) error {
	if err := p.start(ctx); err != nil {
		return err
	}
	if err := p.register(ctx); err != nil {
		return err
	}
	p.conversations, p.seqs = make([]string, topics), make([]int64, topics)
	return inParallel(ctx, topics, func(ctx context.Context, i int) error {
		return p.createTopic(ctx, i, p.people[1:max(2, min(followers, len(p.people)))])
	})
}

// wirePeople is how many people follow, each on several devices. It is low, because registering
// hashes a password.
const wirePeople = 20

type object = map[string]any

// register registers the people who have no account yet.
func (p *parleyServer) register(ctx context.Context) error {
	for i := len(p.people); i < wirePeople; i++ {
		name := fmt.Sprintf("person%d", i)
		var answer struct {
			Register struct {
				Tokens *struct{ AccessToken string }
				Viewer *struct{ User struct{ ID string } }
			}
		}
		err := p.ask(ctx,
			"mutation ($in: RegisterInput!) { register(input: $in) { tokens { accessToken } "+
				"viewer { user { id } } } }",
			object{"email": name + "@example.org", "nickname": name, "password": rand.Text()},
			&answer)
		if err != nil {
			return err
		}
		if answer.Register.Tokens == nil || answer.Register.Viewer == nil {
			return errors.New("register: the answer has no tokens")
		}
		p.tokens = append(p.tokens, answer.Register.Tokens.AccessToken)
		p.people = append(p.people, answer.Register.Viewer.User.ID)
	}
	return nil
}

// createTopic creates a conversation of the first of the people and others.
func (p *parleyServer) createTopic(ctx context.Context, topic int, others []string) error {
	var members []object
	for _, id := range others {
		members = append(members, object{"userId": id})
	}
	var answer struct {
		CreateConversation struct {
			Conversation *struct {
				ID      string
				LastSeq int64
			}
		}
	}
	err := p.ask(ctx,
		"mutation ($in: CreateConversationInput!) { createConversation(input: $in) { "+
			"conversation { id lastSeq } } }",
		object{"title": "A topic", "members": members}, &answer)
	if err != nil {
		return err
	}
	created := answer.CreateConversation.Conversation
	if created == nil {
		return errors.New("createConversation: the answer has no conversation")
	}
	p.conversations[topic], p.seqs[topic] = created.ID, created.LastSeq
	return nil
}

func (p *parleyServer) send(ctx context.Context, topic int) error {
	var answer struct {
		SendMessage struct{ Message *struct{ Seq int64 } }
	}
	err := p.ask(ctx,
		"mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { seq } } }",
		object{"conversationId": p.conversations[topic], "content": stamped()}, &answer)
	if err != nil {
		return err
	}
	if answer.SendMessage.Message == nil {
		return errors.New("sendMessage: the answer has no message")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seqs[topic] = max(p.seqs[topic], answer.SendMessage.Message.Seq)
	return nil
}

func (p *parleyServer) last(topic int) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seqs[topic]
}

func (p *parleyServer) join(topic, follower int, after int64) (*conn, error) {
	c, err := dial(p.url, 0)
	if err != nil {
		return nil, err
	}
	if err := p.subscribe(c, topic, follower, after); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// subscribe makes a new connection that of a follower: one of the people in the conversation.
func (p *parleyServer) subscribe(c *conn, topic, follower int, after int64) error {
	if err := c.send(client.Init(p.tokens[follower%len(p.tokens)])); err != nil {
		return err
	}
	answer, err := c.message()
	if err != nil {
		return err
	}
	if !bytes.Contains(answer, []byte(client.TypeAck)) {
		return fmt.Errorf("%s instead of %s", answer, client.TypeAck)
	}
	return c.send(client.Subscribe("1", client.Operation{
		Query: "subscription ($id: ID!, $after: Int) { messageAdded(conversationId: $id, " +
			"afterSeq: $after) { " +
			p.fields + " } }",
		Variables: object{"id": p.conversations[topic], "after": after},
	}))
}

// ask runs a mutation with the variable in, as the first of the people if there is one.
func (p *parleyServer) ask(ctx context.Context, query string, in, data any) error {
	return p.query(ctx, query, object{"in": in}, data)
}

// login makes a person from package seed the one who asks.
func (p *parleyServer) login(ctx context.Context, email string) error {
	var answer struct {
		Login struct{ Tokens *struct{ AccessToken string } }
	}
	err := p.ask(ctx,
		"mutation ($in: LoginInput!) { login(input: $in) { tokens { accessToken } } }",
		object{"email": email, "password": seed.Password}, &answer)
	if err != nil {
		return err
	}
	if answer.Login.Tokens == nil {
		return fmt.Errorf("login as %s: the answer has no tokens", email)
	}
	p.tokens = []string{answer.Login.Tokens.AccessToken}
	return nil
}

// query runs an operation, and reads its data. It returns an error if the answer has errors.
func (p *parleyServer) query(ctx context.Context, query string, variables object, data any) error {
	request, err := json.Marshal(client.Operation{Query: query, Variables: variables})
	if err != nil {
		return err
	}
	token := ""
	if len(p.tokens) > 0 {
		token = p.tokens[0]
	}
	text, err := post(ctx, p.url, token, request)
	if err != nil {
		return err
	}
	answer := struct {
		Data   any
		Errors json.RawMessage
	}{Data: data}
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	if answer.Errors != nil {
		return fmt.Errorf("the server answered %s", answer.Errors)
	}
	return nil
}
