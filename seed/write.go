package seed

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/alexedwards/argon2id"
	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// rowsAtOnce is how many rows one statement inserts.
const rowsAtOnce = 500

// write stores everything that the generator generates, and then the final state of the
// conversations.
func write(
	ctx context.Context, db *store.DB, g *generator, progress func(int),
) (_ *Filled, err error) {
	restore, err := skipFlushes(ctx, db)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, restore()) }()
	err = db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		return insert(ctx, tx, g.people)
	})
	if err != nil {
		return nil, err
	}
	filled := &Filled{People: g.people}
	if err := writeBatches(ctx, db, g, filled, progress); err != nil {
		return nil, err
	}
	if err := db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		return finish(ctx, tx, g)
	}); err != nil {
		return nil, err
	}
	filled.Conversations = len(g.conversations)
	return filled, nil
}

func writeBatches(
	ctx context.Context, db *store.DB, g *generator, filled *Filled, progress func(int),
) error {
	ctx, cancel := context.WithCancel(ctx)
	batches := make(chan *batch)
	var generating sync.WaitGroup
	generating.Go(func() {
		defer close(batches)
		g.run(func(b *batch) bool {
			select {
			case batches <- b:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	defer generating.Wait()
	defer cancel()
	for b := range batches {
		if err := db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
			return writeBatch(ctx, tx, b)
		}); err != nil {
			return err
		}
		filled.Events += len(b.events)
		filled.Messages += len(b.messages)
		progress(filled.Messages)
	}
	return ctx.Err()
}

func writeBatch(ctx context.Context, tx *store.Tx, b *batch) error {
	if err := insert(ctx, tx, b.conversations); err != nil {
		return err
	}
	if err := insertMessages(ctx, tx, b.messages); err != nil {
		return err
	}
	if err := setPositions(ctx, tx, b.events); err != nil {
		return err
	}
	return errors.Join(insert(ctx, tx, b.events), insert(ctx, tx, b.mentions),
		insert(ctx, tx, b.reactions))
}

func insert[T any](ctx context.Context, tx *store.Tx, rows []T) error {
	for part := range slices.Chunk(rows, rowsAtOnce) {
		if _, err := tx.NewInsert().Model(&part).Returning(nothing).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// nothing keeps Bun from reading values back into rows that the generator still uses.
const nothing = "NULL"

// setPositions sets the positions of events to those that chat would take in this transaction.
func setPositions(ctx context.Context, tx *store.Tx, events []*model.Event) error {
	var first, step int64
	var err error
	if tx.Postgres() {
		err = tx.NewRaw("SELECT pg_current_xact_id()::text::bigint").Scan(ctx, &first)
	} else {
		step = 1
		err = tx.NewRaw("UPDATE event_position SET last = last + ? RETURNING last", len(events)).
			Scan(ctx, &first)
		first -= int64(len(events)) - 1
	}
	for i, e := range events {
		e.Position = first + int64(i)*step
	}
	return err
}

// insertMessages stores messages with their words.
func insertMessages(ctx context.Context, tx *store.Tx, messages []*message) error {
	if tx.Postgres() {
		return insert(ctx, tx, messages)
	}
	for part := range slices.Chunk(messages, rowsAtOnce) {
		if _, err := tx.NewInsert().Model(&part).Returning(nothing).ExcludeColumn("tokens").
			Exec(ctx); err != nil {
			return err
		}
		var last int64
		if err := tx.NewRaw("SELECT last_insert_rowid()").Scan(ctx, &last); err != nil {
			return err
		}
		if err := insertWords(ctx, tx, part, last-int64(len(part))+1); err != nil {
			return err
		}
	}
	return nil
}

// insertWords stores the words of messages in SQLite. Their rowids are consecutive, from first.
func insertWords(ctx context.Context, tx *store.Tx, messages []*message, first int64) error {
	var values []string
	var args []any
	for i, m := range messages {
		if m.DeletedAt == nil {
			values = append(values, "(?, ?)")
			args = append(args, first+int64(i), strings.Join(m.Words, " "))
		}
	}
	if len(values) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO message_tokens (rowid, tokens) VALUES "+
		strings.Join(values, ", "), args...)
	return err
}

// tsvector returns words as the text of a tsvector. Words are letters, marks and digits, or one
// symbol, so they need no escaping.
func tsvector(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "'" + strings.Join(words, "' '") + "'"
}

// finish stores the final state of the conversations, their members, and last the passwords.
func finish(ctx context.Context, tx *store.Tx, g *generator) error {
	for _, c := range g.conversations {
		g.setMemberStates(c)
		if err := insert(ctx, tx, c.members); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model(&c.Conversation).
			Column("title", "untitled", "members_may_rename", "last_seq", "last_message_seq",
				"last_activity_at").WherePK().Exec(ctx)
		if err != nil {
			return err
		}
	}
	// All accounts have the same hash: a thousand hashes would take half a minute.
	hash, err := argon2id.CreateHash(Password,
		&argon2id.Params{
			Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16,
			KeyLength: 32,
		})
	if err != nil {
		return err
	}
	credentials := make([]*model.Credentials, len(g.people))
	for i, u := range g.people {
		credentials[i] = &model.Credentials{
			UserID: u.ID, PasswordHash: hash,
			UpdatedAt: u.CreatedAt,
		}
	}
	return insert(ctx, tx, credentials)
}

// skipFlushes turns durability off while the database is filled, and returns a function that turns
// it on again.
func skipFlushes(ctx context.Context, db *store.DB) (restore func() error, err error) {
	after := context.WithoutCancel(ctx)
	if db.Postgres() {
		// Autovacuum would do this later: the planner's statistics, and the pending list of the
		// index of words.
		return func() error { return runEach(after, db, "VACUUM (ANALYZE)") }, nil
	}
	return func() error {
		return runEach(after, db, "PRAGMA synchronous = FULL", "PRAGMA cache_size = -16000",
			"PRAGMA wal_checkpoint(TRUNCATE)")
	}, runEach(ctx, db, "PRAGMA synchronous = OFF", "PRAGMA cache_size = -400000")
}

func runEach(ctx context.Context, db bun.IDB, statements ...string) error {
	for _, s := range statements {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return nil
}
