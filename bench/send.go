package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"parley/chat"
	"parley/model"
)

// send stores one message.
type send func(ctx context.Context, to model.ConversationID, author model.Actor) error

// content is of the length of an ordinary message.
var content = strings.Repeat("an ordinary message ", 5) //nolint:gochecknoglobals // a constant

const (
	manyConversations = 1000
	maxSenders        = 64
)

// database is one of the two databases, with everything that a round of sending needs.
type database struct {
	name          string
	fixture       *fixture
	conversations []model.ConversationID
	bare          send
	closeBare     func() error
	serverPID     int // 0 if the database runs inside this process
}

// sending measures chat.Service.SendMessage. The yardsticks are a transaction for each message, and
// the bare driver.
func (b *bench) sending(ctx context.Context) error {
	t := table{head: []string{
		"database", "conversations", "senders", "next to", "Parley", "yardstick", "ratio",
		"CPU, Parley", "CPU, yardstick", "ratio",
	}}
	for _, open := range []func(context.Context) (*database, error){b.openSQLite, b.openPostgres} {
		if err := b.sendTo(ctx, open, &t); err != nil {
			return err
		}
	}
	b.printf("\n## Sending a message\n\n")
	b.printf(
		"`chat.Service.SendMessage`, in which waiting messages share a commit. Both yardsticks " +
			"use a transaction for each message:\n")
	b.printf(
		"`one by one` has the same rules, through Bun; `bare` has the fewest statements, through " +
			"the driver alone, prepared, with\n")
	b.printf(
		"as many connections, and neither finds mentions nor indexes words. Messages per second " +
			"(a ratio of 1 is as fast), and\n")
	b.printf(
		"CPU time for one message, of the sending process and of all of PostgreSQL's together.\n\n")
	t.print(b.out)
	return b.sendingOverHTTP(ctx)
}

func (b *bench) sendTo(
	ctx context.Context, open func(context.Context) (*database, error), t *table,
) (err error) {
	d, err := open(ctx)
	if err != nil || d == nil {
		return err
	}
	defer func() { err = errors.Join(err, d.closeBare(), d.fixture.close()) }()
	d.conversations, err = d.fixture.conversations(ctx, manyConversations)
	if err != nil {
		return err
	}
	for _, spread := range []int{1, manyConversations} {
		for _, senders := range []int{1, 8, maxSenders} {
			b.note("sending: %s, conversations: %d, senders: %d", d.name, spread, senders)
			if err := b.sendPair(ctx, d, d.conversations[:spread], senders, t); err != nil {
				return err
			}
		}
	}
	return d.checkNumbers(ctx)
}

func (b *bench) sendPair(
	ctx context.Context, d *database, to []model.ConversationID, senders int, t *table,
) error {
	round := func(send send) func() (sent, error) {
		return func() (sent, error) { return d.round(ctx, send, to, senders, b.sendTime) }
	}
	for _, yardstick := range []struct {
		name string
		send send
	}{{"one by one", d.sendAloneInTx}, {"bare", d.bare}} {
		// The first round of each does not count. It opens connections and prepares statements.
		if _, _, err := inTurns(1, round(d.sendThroughParley), round(yardstick.send)); err != nil {
			return err
		}
		ofParley, ofYardstick, err := inTurns(b.rounds, round(d.sendThroughParley),
			round(yardstick.send))
		if err != nil {
			return err
		}
		t.add(append([]string{d.name, strconv.Itoa(len(to)), strconv.Itoa(senders), yardstick.name},
			sendCells(ofParley, ofYardstick)...)...)
	}
	return nil
}

// sent is the result of one round: messages per second, and CPU seconds per message, including the
// database's.
type sent struct{ perSecond, cpu float64 }

func (d *database) round(
	ctx context.Context, send send, to []model.ConversationID, senders int, long time.Duration,
) (sent, error) {
	var next atomic.Int64
	return sendRound(ctx, long, senders, func(ctx context.Context, n int) error {
		return send(ctx, to[n%len(to)], d.fixture.people[int(next.Add(1))%len(d.fixture.people)])
	}, func() (time.Duration, error) {
		own, err1 := ownCPU()
		server, err2 := cpuOf(d.serverPID)
		return own + server, errors.Join(err1, err2)
	})
}

// sendRound runs so many senders for a time, each of which sends one message after another. send
// gets the number of the message.
func sendRound(
	ctx context.Context, long time.Duration, senders int,
	send func(ctx context.Context, n int) error,
	cpu func() (time.Duration, error),
) (sent, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, err1 := cpu()
	var next, messages atomic.Int64
	start := time.Now()
	var working sync.WaitGroup
	for range senders {
		working.Go(func() {
			for time.Since(start) < long && ctx.Err() == nil {
				if err := send(ctx, int(next.Add(1))); err != nil {
					cancel(err)
					return
				}
				messages.Add(1)
			}
		})
	}
	working.Wait()
	took := time.Since(start)
	if ctx.Err() != nil {
		return sent{}, context.Cause(ctx)
	}
	after, err2 := cpu()
	n := float64(messages.Load())
	return sent{perSecond: n / took.Seconds(), cpu: (after - before).Seconds() / n},
		errors.Join(err1, err2)
}

func (d *database) sendAloneInTx(
	ctx context.Context, to model.ConversationID, author model.Actor,
) error {
	return sendAlone(ctx, d.fixture.db, to, author)
}

func (d *database) sendThroughParley(
	ctx context.Context, to model.ConversationID, author model.Actor,
) error {
	key := uuid.NewString()
	_, err := d.fixture.chat.SendMessage(ctx, author, chat.SendMessage{
		ConversationID: to, Content: content, IdempotencyKey: &key,
	})
	return err
}

// checkNumbers checks that both sides did the work: every seq has an event, and every event except
// the first of each conversation has a message.
func (d *database) checkNumbers(ctx context.Context) error {
	var conversations, taken, events, messages int64
	err := d.fixture.db.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM conversations), (SELECT sum(last_seq) FROM conversations),
		(SELECT count(*) FROM events), (SELECT count(*) FROM messages)`).Scan(&conversations, &taken, &events, &messages)
	if err != nil {
		return err
	}
	if taken != events || events != messages+conversations {
		return fmt.Errorf("%s: %d seqs in %d conversations, but %d events and %d messages",
			d.name, taken, conversations, events, messages)
	}
	return nil
}

func (b *bench) openSQLite(ctx context.Context) (*database, error) {
	path := filepath.Join(b.dir, "send.db")
	w, err := newFixture(ctx, "sqlite:"+path, maxSenders)
	if err != nil {
		return nil, err
	}
	bare, closeBare, err := openBareSQLite(ctx, path)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return &database{name: "SQLite", fixture: w, bare: bare, closeBare: closeBare}, nil
}

// openPostgres returns nil if PostgreSQL is not installed.
func (b *bench) openPostgres(ctx context.Context) (*database, error) {
	if b.postgres == nil {
		return nil, nil //nolint:nilnil // nothing to measure
	}
	if err := b.createDatabase(ctx, "send"); err != nil {
		return nil, err
	}
	w, err := newFixture(ctx, b.postgres.URL("send"), maxSenders)
	if err != nil {
		return nil, err
	}
	bare, closeBare, err := openBarePostgres(ctx, b.postgres.URL("send"))
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return &database{
		name: "PostgreSQL", fixture: w, bare: bare, closeBare: closeBare,
		serverPID: b.postgres.PID(),
	}, nil
}

func (b *bench) createDatabase(ctx context.Context, name string) (err error) {
	admin, err := sql.Open("pgx", b.postgres.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, admin.Close()) }()
	_, err = admin.ExecContext(ctx, "CREATE DATABASE "+name)
	return err
}
