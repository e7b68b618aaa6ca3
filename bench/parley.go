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

	"parley/seed"
)

// parleyServer is the built server, which may be started again with what it has stored; or, where
// stock is set, one of the same API that has gqlgen's transport for WebSockets.
type parleyServer struct {
	*child
	binary, dir string
	stock       bool
	database    string   // its URL, where it is not the one in dir
	fields      string   // what each follower asks for
	tokens      []string // the people's access tokens; the first is the sender's
	people      []string // their ids

	conversations []string // a topic each

	mu   sync.Mutex // guards seqs
	seqs []int64    // the newest of each conversation
}

func (p *parleyServer) title() string {
	if p.stock {
		return "gqlgen's transport"
	}
	return "Parley"
}

// build makes the program that everybody gets, and what package debug is in it: go build takes one
// more file for that.
func (p *parleyServer) build(ctx context.Context) error {
	dir := filepath.Dir(p.binary)
	const hook = "package main\n\nimport \"parley/bench/debug\"\n\nfunc init() { debug.Serve() }\n"
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	file, overlay := filepath.Join(dir, "hook.go"), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(strings.TrimSpace(string(module)), "bench_hook.go"): file},
	})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(file, []byte(hook), 0o600), os.WriteFile(overlay, replaced, 0o600)); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", p.binary, "parley")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

// start begins with the memory of a server that has done nothing yet.
func (p *parleyServer) start(ctx context.Context) (err error) {
	command := []string{p.binary}
	if p.stock {
		command = []string{p.binary, stockArgument}
	}
	var settings []string
	if p.database != "" {
		settings = append(settings, "PARLEY_DATABASE_URL="+p.database)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	p.child, err = startTarget(ctx, p.dir, settings, command...)
	return err
}

// begin starts the server, and makes the topics: conversations of as many people as there are
// followers, or of all of them.
func (p *parleyServer) begin(ctx context.Context, topics, followers int) error {
	if err := p.start(ctx); err != nil {
		return err
	}
	if err := p.register(ctx); err != nil {
		return err
	}
	p.conversations, p.seqs = make([]string, topics), make([]int64, topics)
	return atOnce(ctx, topics, func(ctx context.Context, i int) error {
		return p.converse(ctx, i, p.people[1:max(2, min(followers, len(p.people)))])
	})
}

// wirePeople is how many people follow, each on several devices, because a real password's price is
// paid for each of them.
const wirePeople = 20

type object = map[string]any

// register makes accounts, the first time.
func (p *parleyServer) register(ctx context.Context) error {
	for i := len(p.people); i < wirePeople; i++ {
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
		p.people = append(p.people, answer.Register.Viewer.User.ID)
	}
	return nil
}

// converse makes a conversation of the first of the people with others.
func (p *parleyServer) converse(ctx context.Context, topic int, others []string) error {
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
	err := p.ask(ctx, "mutation ($in: CreateConversationInput!) { createConversation(input: $in) { conversation { id lastSeq } } }",
		object{"title": "A topic", "members": members}, &answer)
	if err != nil {
		return err
	}
	made := answer.CreateConversation.Conversation
	if made == nil {
		return errors.New("no conversation was made")
	}
	p.conversations[topic], p.seqs[topic] = made.ID, made.LastSeq
	return nil
}

func (p *parleyServer) send(ctx context.Context, topic int) error {
	var answer struct {
		SendMessage struct{ Message *struct{ Seq int64 } }
	}
	err := p.ask(ctx, "mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { seq } } }",
		object{"conversationId": p.conversations[topic], "content": stamped()}, &answer)
	if err != nil {
		return err
	}
	if answer.SendMessage.Message == nil {
		return errors.New("the message was not sent")
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

// subscribe makes a connection that of a follower, who is one of the conversation's people.
func (p *parleyServer) subscribe(c *conn, topic, follower int, after int64) error {
	say := func(v any) error {
		message, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return c.write(opText, message)
	}
	err := say(object{
		"type": "connection_init", "payload": object{"Authorization": "Bearer " + p.tokens[follower%len(p.tokens)]},
	})
	if err != nil {
		return err
	}
	answer, err := c.message()
	if err != nil {
		return err
	}
	if !bytes.Contains(answer, []byte(`"connection_ack"`)) {
		return fmt.Errorf("instead of connection_ack came %s", answer)
	}
	return say(object{"id": "1", "type": "subscribe", "payload": object{
		"query":     "subscription ($id: ID!, $after: Int) { messageAdded(conversationId: $id, afterSeq: $after) { " + p.fields + " } }",
		"variables": object{"id": p.conversations[topic], "after": after},
	}})
}

// ask runs a mutation with one variable, in, as the first of the people once there is one.
func (p *parleyServer) ask(ctx context.Context, query string, in, data any) error {
	return p.query(ctx, query, object{"in": in}, data)
}

// login has what follows be asked by somebody whom seed has made.
func (p *parleyServer) login(ctx context.Context, email string) error {
	var answer struct {
		Login struct{ Tokens *struct{ AccessToken string } }
	}
	err := p.ask(ctx, "mutation ($in: LoginInput!) { login(input: $in) { tokens { accessToken } } }",
		object{"email": email, "password": seed.Password}, &answer)
	if err != nil {
		return err
	}
	if answer.Login.Tokens == nil {
		return fmt.Errorf("%s was not signed in", email)
	}
	p.tokens = []string{answer.Login.Tokens.AccessToken}
	return nil
}

func (p *parleyServer) query(ctx context.Context, query string, variables object, data any) error {
	request, err := json.Marshal(object{"query": query, "variables": variables})
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
