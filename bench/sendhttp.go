package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"

	"parley/model"
	"parley/store"
)

// aloneArgument runs this program as a server that stores each message in a transaction of its own.
// It is internal.
const aloneArgument = "serve-alone"

// aloneInput is a request to such a server, which does not authenticate.
type aloneInput struct {
	Conversation model.ConversationID
	Author       model.UserID
}

// serveAlone does as little as possible around sendAlone: no GraphQL, no tokens and no sessions.
func serveAlone(ctx context.Context, stdout io.Writer) (err error) {
	db, err := store.Open(ctx, os.Getenv("PARLEY_DATABASE_URL"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return serve(ctx, stdout, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in aloneInput
		err := json.NewDecoder(r.Body).Decode(&in)
		if err == nil {
			err = sendAlone(r.Context(), db, in.Conversation, model.Actor{UserID: in.Author})
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
}

// sendingOverHTTP measures the built server, with serveAlone on the same database as the yardstick.
func (b *bench) sendingOverHTTP(ctx context.Context) error {
	t := table{head: []string{
		"database", "conversations", "senders", "Parley", "one by one", "ratio", "CPU, Parley",
		"CPU, one by one", "ratio",
	}}
	binary := filepath.Join(b.dir, "sender", "parley")
	if err := os.MkdirAll(filepath.Dir(binary), 0o700); err != nil {
		return err
	}
	if err := (&parleyServer{binary: binary}).build(ctx); err != nil {
		return err
	}
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		if err := b.sendOverHTTP(ctx, kind, binary, &t); err != nil {
			return err
		}
	}
	b.printf("\n## Sending a message over HTTP\n\n")
	b.printf(
		"The built server's `sendMessage`, with all that GraphQL, tokens and sessions cost. The " +
			"yardstick is a server that reads a small\n")
	b.printf(
		"JSON object and stores the message in its own transaction. CPU time for one message, of " +
			"the server and of all of\n")
	b.printf("PostgreSQL's, without the clients'.\n\n")
	t.print(b.out)
	return nil
}

func (b *bench) sendOverHTTP(ctx context.Context, kind, binary string, t *table) (err error) {
	dir := filepath.Join(b.dir, "http"+kind)
	url, database := "sqlite:"+filepath.Join(dir, "parley.db"), 0
	if kind == "PostgreSQL" {
		if b.postgres == nil {
			return nil
		}
		if err := b.createDatabase(ctx, "sendhttp"); err != nil {
			return err
		}
		url, database = b.postgres.URL("sendhttp"), b.postgres.PID()
	}
	p := &parleyServer{binary: binary, dir: dir, database: url}
	if err := p.begin(ctx, manyConversations, 2); err != nil {
		return err
	}
	defer p.stop()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	alone, err := startServer(ctx, dir, []string{"PARLEY_DATABASE_URL=" + url}, self, aloneArgument)
	if err != nil {
		return err
	}
	defer alone.stop()

	through := func(ctx context.Context, to int) error {
		var answer struct {
			SendMessage struct{ Message *struct{ ID string } }
		}
		err := p.ask(ctx,
			"mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { id seq "+
				"createdAt } } }",
			object{
				"conversationId": p.conversations[to], "content": content,
				"idempotencyKey": uuid.NewString(),
			}, &answer)
		if err == nil && answer.SendMessage.Message == nil {
			err = errors.New("sendMessage: the answer has no message")
		}
		return err
	}
	past := func(ctx context.Context, to int) error {
		in, err := json.Marshal(object{"conversation": p.conversations[to], "author": p.people[0]})
		if err == nil {
			_, err = post(ctx, alone.url, "", in)
		}
		return err
	}
	for _, spread := range []int{1, manyConversations} {
		for _, senders := range []int{1, 8, maxSenders} {
			b.note("sending over HTTP: %s, conversations: %d, senders: %d", kind, spread, senders)
			round := func(send func(context.Context, int) error, pid int) func() (sent, error) {
				return func() (sent, error) {
					return sendRound(ctx, b.sendTime, senders,
						func(ctx context.Context, n int) error { return send(ctx, n%spread) },
						func() (time.Duration, error) { return cpuOf(pid, database) })
				}
			}
			parley, yardstick := round(through, p.pid()), round(past, alone.pid())
			if _, _, err := inTurns(1, parley, yardstick); err != nil {
				return err
			}
			ofParley, ofYardstick, err := inTurns(b.rounds, parley, yardstick)
			if err != nil {
				return err
			}
			t.add(append([]string{kind, strconv.Itoa(spread), strconv.Itoa(senders)},
				sendCells(ofParley, ofYardstick)...)...)
		}
	}
	return nil
}

// cpuOf returns the CPU time of processes and their children. It ignores the id 0.
func cpuOf(pids ...int) (all time.Duration, err error) {
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		spent, err := treeCPU(pid)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", pid, err)
		}
		all += spent
	}
	return all, nil
}

func sendCells(ofParley, ofYardstick []sent) []string {
	speed := figure(ofParley, ofYardstick, func(s sent) float64 { return s.perSecond })
	cpu := figure(ofParley, ofYardstick, func(s sent) float64 { return s.cpu })
	perSecond := func(values []float64) string { return fmt.Sprintf("%.0f/s", median(values)) }
	return []string{
		perSecond(speed.parley), perSecond(speed.yardstick), speed.ratio(),
		medianDuration(cpu.parley), medianDuration(cpu.yardstick), cpu.ratio(),
	}
}
