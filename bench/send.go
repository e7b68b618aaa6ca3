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
type send func(ctx context.Context, to model.ConversationID) error

// content is of the length of an ordinary message.
var content = strings.Repeat("an ordinary message ", 5) //nolint:gochecknoglobals // a constant

const manyConversations = 1000

// database is one of the two, with what a round of sending needs.
type database struct {
	name          string
	world         *world
	conversations []model.ConversationID
	bare          send
	closeBare     func() error
	serverPID     int // 0 where the database runs inside this process
}

// sending measures chat.Service.SendMessage beside the same statements without Parley.
func (b *bench) sending(ctx context.Context) error {
	t := table{head: []string{
		"database", "conversations", "senders", "Parley", "bare driver", "ratio",
		"CPU, Parley", "CPU, bare", "ratio", "CPU of PostgreSQL, Parley", "bare", "ratio",
	}}
	for _, open := range []func(context.Context) (*database, error){b.openSQLite, b.openPostgres} {
		if err := b.sendTo(ctx, open, &t); err != nil {
			return err
		}
	}
	b.printf("\n## Sending a message\n\n")
	b.printf("`chat.Service.SendMessage` beside the same statements in the same transaction through the bare driver, prepared,\n")
	b.printf("with as many connections. Messages per second (a ratio of 1 is as fast), and CPU time for one message, of the sending\n")
	b.printf("process and of all of PostgreSQL's. SQLite runs inside the sending process.\n\n")
	t.print(b.out)
	return nil
}

func (b *bench) sendTo(ctx context.Context, open func(context.Context) (*database, error), t *table) (err error) {
	d, err := open(ctx)
	if err != nil || d == nil {
		return err
	}
	defer func() { err = errors.Join(err, d.closeBare(), d.world.close()) }()
	d.conversations, err = d.world.conversations(ctx, manyConversations)
	if err != nil {
		return err
	}
	for _, spread := range []int{1, manyConversations} {
		for _, senders := range []int{1, 8, 64} {
			b.note("sending: %s, conversations: %d, senders: %d", d.name, spread, senders)
			if err := b.sendPair(ctx, d, d.conversations[:spread], senders, t); err != nil {
				return err
			}
		}
	}
	return d.checkNumbers(ctx)
}

func (b *bench) sendPair(ctx context.Context, d *database, to []model.ConversationID, senders int, t *table) error {
	parley := func() (sent, error) { return d.round(ctx, d.sendThroughParley, to, senders, b.sendTime) }
	bare := func() (sent, error) { return d.round(ctx, d.bare, to, senders, b.sendTime) }
	// One round of each does not count: it opens the connections and prepares the statements.
	if _, _, err := inTurns(1, parley, bare); err != nil {
		return err
	}
	ofParley, ofBare, err := inTurns(b.rounds, parley, bare)
	if err != nil {
		return err
	}
	speed := figure(ofParley, ofBare, func(s sent) float64 { return s.perSecond })
	cpu := figure(ofParley, ofBare, func(s sent) float64 { return s.cpu })
	row := []string{
		d.name, strconv.Itoa(len(to)), strconv.Itoa(senders),
		fmt.Sprintf("%.0f/s", median(speed.parley)), fmt.Sprintf("%.0f/s", median(speed.yardstick)), speed.ratio(),
		medianDuration(cpu.parley), medianDuration(cpu.yardstick), cpu.ratio(),
	}
	if d.serverPID == 0 {
		row = append(row, "–", "–", "–")
	} else {
		server := figure(ofParley, ofBare, func(s sent) float64 { return s.serverCPU })
		row = append(row, medianDuration(server.parley), medianDuration(server.yardstick), server.ratio())
	}
	t.add(row...)
	return nil
}

// sent is one round: messages per second, and seconds of CPU time per message.
type sent struct{ perSecond, cpu, serverCPU float64 }

// round has so many senders send, each one message after the other, for as long.
func (d *database) round(
	ctx context.Context, send send, to []model.ConversationID, senders int, long time.Duration,
) (sent, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The server's clocks are read outside the time that this process's clock measures: they are many.
	serverBefore, err1 := d.serverCPU()
	ownBefore, err2 := ownCPU()
	var next, messages atomic.Int64
	start := time.Now()
	var working sync.WaitGroup
	for range senders {
		working.Go(func() {
			for time.Since(start) < long && ctx.Err() == nil {
				if err := send(ctx, to[int(next.Add(1))%len(to)]); err != nil {
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
	ownAfter, err3 := ownCPU()
	serverAfter, err4 := d.serverCPU()
	n := float64(messages.Load())
	return sent{
		perSecond: n / took.Seconds(),
		cpu:       (ownAfter - ownBefore).Seconds() / n,
		serverCPU: (serverAfter - serverBefore).Seconds() / n,
	}, errors.Join(err1, err2, err3, err4)
}

func (d *database) sendThroughParley(ctx context.Context, to model.ConversationID) error {
	key := uuid.NewString()
	_, err := d.world.chat.SendMessage(ctx, d.world.sender(), chat.SendMessage{
		ConversationID: to, Content: content, IdempotencyKey: &key,
	})
	return err
}

// checkNumbers makes sure that both sides did the work: every seq taken has its event, and every event but each
// conversation's first its message.
func (d *database) checkNumbers(ctx context.Context) error {
	var conversations, taken, events, messages int64
	err := d.world.db.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM conversations), (SELECT sum(last_seq) FROM conversations),
		(SELECT count(*) FROM events), (SELECT count(*) FROM messages)`).Scan(&conversations, &taken, &events, &messages)
	if err != nil {
		return err
	}
	if taken != events || events != messages+conversations {
		return fmt.Errorf("%s: %d seqs were taken in %d conversations, for %d events and %d messages",
			d.name, taken, conversations, events, messages)
	}
	return nil
}

func (b *bench) openSQLite(ctx context.Context) (*database, error) {
	path := filepath.Join(b.dir, "send.db")
	w, err := newWorld(ctx, "sqlite:"+path, 2)
	if err != nil {
		return nil, err
	}
	bare, closeBare, err := openBareSQLite(ctx, path, w.sender().UserID)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return &database{name: "SQLite", world: w, bare: bare, closeBare: closeBare}, nil
}

// openPostgres returns nil where there is no PostgreSQL.
func (b *bench) openPostgres(ctx context.Context) (*database, error) {
	if b.postgres == nil {
		return nil, nil //nolint:nilnil // nothing to measure
	}
	if err := b.createDatabase(ctx, "send"); err != nil {
		return nil, err
	}
	w, err := newWorld(ctx, b.postgres.URL("send"), 2)
	if err != nil {
		return nil, err
	}
	bare, closeBare, err := openBarePostgres(ctx, b.postgres.URL("send"), w.sender().UserID)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return &database{name: "PostgreSQL", world: w, bare: bare, closeBare: closeBare, serverPID: b.postgres.PID()}, nil
}

// serverCPU is what the database's own processes have spent.
func (d *database) serverCPU() (time.Duration, error) {
	if d.serverPID == 0 {
		return 0, nil
	}
	return treeCPU(d.serverPID)
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
