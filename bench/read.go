package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
	"unicode"

	"parley/auth"
	"parley/chat"
	"parley/model"
	"parley/seed"
	"parley/store"
	"parley/text"
)

// library is a database full of messages, and a person who reads them.
type library struct {
	name, url string
	messages  int
	db        *store.DB
	chat      *chat.Service
	auth      *auth.Service
	bare      bareReader
	closeBare func() error
	server    *parleyServer

	reader       model.Actor
	email        string
	conversation model.ConversationID // the one of theirs with the most events
	rare         string               // a word in hardly any message
}

// common is a word in many messages: a tenth of them are in English.
const common = "the"

// read is a frequent read of clients. Each side returns how many rows it has read.
type read struct {
	name         string
	parley, bare func(ctx context.Context) (rows int, err error)
}

// reading measures the most frequent reads, at several sizes of the database.
func (b *bench) reading(ctx context.Context) (err error) {
	t := table{head: []string{
		"read", "database", "messages", "rows", "Parley", "bare driver",
		"ratio",
	}}
	growth := table{head: []string{"read", "database"}}
	for _, n := range b.readMessages {
		growth.head = append(growth.head, fmt.Sprintf("Parley, %d", n), fmt.Sprintf("bare, %d", n))
	}
	growth.head = append(growth.head, "Parley grows", "bare grows")
	parley := &parleyServer{binary: filepath.Join(b.dir, "parley")}
	if err := parley.build(ctx); err != nil {
		return err
	}
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		if kind == "PostgreSQL" && b.postgres == nil {
			continue
		}
		grown := map[string]*pair{}
		var names []string
		for _, n := range b.readMessages {
			if err := b.readFrom(ctx, kind, n, parley.binary, &t, grown, &names); err != nil {
				return fmt.Errorf("%s with %d messages: %w", kind, n, err)
			}
		}
		for _, name := range names {
			growth.add(growthRow(name, kind, grown[name])...)
		}
	}
	b.printf("\n## Reading\n\n")
	b.printf(
		"What `parley seed` makes, with a hundredth as many conversations as messages and a " +
			"tenth as many people as those,\n")
	b.printf(
		"read by a person with as many conversations as most. The yardstick is prepared " +
			"statements through the bare driver for\n")
	b.printf(
		"the same rows. The first page of conversations is 20 of them with their last messages, " +
			"the viewer's memberships and\n")
	b.printf(
		"unread counts, 5 members each, and all these people. \"Over HTTP\" is the same request " +
			"to the built server, with the\n")
	b.printf("same statements.\n\n")
	t.print(b.out)
	b.printf("\nHow they grow with the number of messages:\n\n")
	growth.print(b.out)
	return nil
}

func growthRow(name, kind string, p *pair) []string {
	row := []string{name, kind}
	for i := range p.parley {
		row = append(row, duration(seconds(p.parley[i])), duration(seconds(p.yardstick[i])))
	}
	last := len(p.parley) - 1
	return append(row, fmt.Sprintf("%.2f", p.parley[last]/p.parley[0]),
		fmt.Sprintf("%.2f", p.yardstick[last]/p.yardstick[0]))
}

// readFrom adds the rows of one database to the table, and its medians to grown, by the name of the
// read.
func (b *bench) readFrom(
	ctx context.Context, kind string, messages int, binary string, t *table, grown map[string]*pair,
	names *[]string,
) (err error) {
	b.note("reading: %s, filling it with %d messages", kind, messages)
	l, err := b.openLibrary(ctx, kind, messages, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	for _, r := range l.reads() {
		b.note("reading: %s, %d messages, %s", kind, messages, r.name)
		p, rows, err := b.readPair(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		t.add(r.name, kind, strconv.Itoa(messages), strconv.Itoa(rows),
			medianDuration(p.parley), medianDuration(p.yardstick), p.ratio())
		if grown[r.name] == nil {
			grown[r.name] = &pair{}
			*names = append(*names, r.name)
		}
		g := grown[r.name]
		g.parley, g.yardstick = append(g.parley, median(p.parley)),
			append(g.yardstick, median(p.yardstick))
	}
	return nil
}

func (b *bench) readPair(ctx context.Context, r read) (p pair, rows int, err error) {
	// The first time does not count. It warms the caches, prepares the statements, and checks that
	// both read the same.
	rows, err1 := r.parley(ctx)
	bare, err2 := r.bare(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return pair{}, 0, err
	}
	if rows != bare || rows == 0 {
		return pair{}, 0, fmt.Errorf("parley reads %d rows, and the bare driver %d", rows, bare)
	}
	round := func(read func(context.Context) (int, error)) func() (float64, error) {
		return func() (float64, error) { return timeOf(ctx, b.readTime, read) }
	}
	p.parley, p.yardstick, err = inTurns(b.rounds, round(r.parley), round(r.bare))
	return p, rows, err
}

// timeOf reads repeatedly, three times at least, and returns the seconds of one read.
func timeOf(
	ctx context.Context, long time.Duration, read func(context.Context) (int, error),
) (float64, error) {
	const atLeast = 3
	n := 0
	start := time.Now()
	for time.Since(start) < long || n < atLeast {
		if _, err := read(ctx); err != nil {
			return 0, err
		}
		n++
	}
	return time.Since(start).Seconds() / float64(n), nil
}

func (b *bench) openLibrary(
	ctx context.Context, kind string, messages int, binary string,
) (_ *library, err error) {
	l := &library{name: kind, messages: messages}
	if kind == "SQLite" {
		path := filepath.Join(b.dir, fmt.Sprintf("read%d.db", messages))
		l.url = "sqlite:" + path
	} else {
		name := fmt.Sprintf("read%d", messages)
		if err := b.createDatabase(ctx, name); err != nil {
			return nil, err
		}
		l.url = b.postgres.URL(name)
	}
	w, err := newFixture(ctx, l.url, 0)
	if err != nil {
		return nil, err
	}
	l.db, l.chat = w.db, w.chat
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	start := time.Now()
	size := seed.Size{
		People: max(seed.Small.People, messages/1000), Conversations: messages / 100,
		Messages: messages,
	}
	if _, err := seed.Fill(ctx, l.db, seed.Options{Size: size, Seed: 1}); err != nil {
		return nil, err
	}
	b.note("reading: %s, filled in %v", kind, time.Since(start).Round(time.Second))
	key, err := auth.SecretKey([]byte(rand.Text() + rand.Text())) // it signs nothing
	if err != nil {
		return nil, err
	}
	if l.auth, err = auth.New(l.db,
		auth.Options{Keys: []auth.Key{key}, Issuer: "bench", AccessTTL: time.Minute}); err != nil {
		return nil, err
	}
	if err := l.chooseReader(ctx); err != nil {
		return nil, err
	}
	if kind == "SQLite" {
		l.bare, l.closeBare, err = openBareSQLiteReader(l.url[len("sqlite:"):])
	} else {
		l.bare, l.closeBare, err = openBarePostgresReader(ctx, l.url)
	}
	if err != nil {
		return nil, err
	}
	l.server = &parleyServer{binary: binary, dir: filepath.Join(b.dir, "read"), database: l.url}
	if err := l.server.start(ctx); err != nil {
		l.server = nil
		return nil, err
	}
	return l, l.server.login(ctx, l.email)
}

func (l *library) close() (err error) {
	if l.server != nil {
		l.server.stop()
	}
	if l.closeBare != nil {
		err = l.closeBare()
	}
	err = errors.Join(err, l.db.Close())
	if l.name == "SQLite" { // it is large
		err = errors.Join(err, os.Remove(l.url[len("sqlite:"):]))
	}
	return err
}

// chooseReader chooses the person with the median number of conversations, and what they read.
func (l *library) chooseReader(ctx context.Context) error {
	var people []model.UserID
	err := l.db.NewSelect().Model((*model.ConversationMember)(nil)).Column("user_id").
		GroupExpr("user_id").
		OrderExpr("count(*), user_id").Scan(ctx, &people)
	if err != nil {
		return err
	}
	l.reader = model.Actor{UserID: people[len(people)/2]}
	err = l.db.NewSelect().Model((*model.User)(nil)).Column("email").
		Where("u.id = ?", l.reader.UserID).Scan(ctx, &l.email)
	if err != nil {
		return err
	}
	err = l.db.NewSelect().Model((*model.ConversationMember)(nil)).Column("cm.conversation_id").
		Join("JOIN conversations AS c ON c.id = cm.conversation_id").
		Where("cm.user_id = ?", l.reader.UserID).
		Where("cm.hidden_seq = 0").OrderExpr("c.last_seq DESC").Limit(1).Scan(ctx, &l.conversation)
	if err != nil {
		return err
	}
	var contents []string
	err = l.db.NewSelect().Model((*model.Message)(nil)).Column("content").
		Where("m.conversation_id = ?", l.conversation).
		OrderExpr("m.seq DESC").Limit(500).Scan(ctx, &contents)
	for _, content := range contents {
		for _, word := range text.Tokens(content) {
			if len(word) == 5 && unicode.IsDigit(rune(word[0])) {
				l.rare = word
				return err
			}
		}
	}
	return errors.Join(err, errors.New("no rare word was found"))
}
