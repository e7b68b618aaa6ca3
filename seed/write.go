package seed

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/alexedwards/argon2id"
	"github.com/uptrace/bun"

	"parley/model"
	"parley/store"
)

// atOnce bounds one statement.
const atOnce = 500

// write stores what happens on the walk, and in the end how everything stands.
func write(ctx context.Context, db *store.DB, w *walk, progress func(int)) (_ *Filled, err error) {
	resume, err := hurry(ctx, db)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resume()) }()
	err = db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error { return insert(ctx, tx, w.people) })
	if err != nil {
		return nil, err
	}
	filled := &Filled{People: w.people}
	if err := writeWalk(ctx, db, w, filled, progress); err != nil {
		return nil, err
	}
	if err := db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error { return settle(ctx, tx, w) }); err != nil {
		return nil, err
	}
	filled.Conversations = len(w.conversations)
	return filled, nil
}

func writeWalk(ctx context.Context, db *store.DB, w *walk, filled *Filled, progress func(int)) error {
	ctx, cancel := context.WithCancel(ctx)
	batches := make(chan *batch)
	var walking sync.WaitGroup
	walking.Go(func() {
		defer close(batches)
		w.through(func(b *batch) bool {
			select {
			case batches <- b:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	defer walking.Wait()
	defer cancel()
	for b := range batches {
		if err := db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error { return writeBatch(ctx, tx, b) }); err != nil {
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
	if err := position(ctx, tx, b.events); err != nil {
		return err
	}
	return errors.Join(insert(ctx, tx, b.events), insert(ctx, tx, b.mentions), insert(ctx, tx, b.reactions))
}

func insert[T any](ctx context.Context, tx *store.Tx, rows []T) error {
	return inParts(rows, func(part []T) error {
		_, err := tx.NewInsert().Model(&part).Returning(nothing).Exec(ctx)
		return err
	})
}

// nothing keeps Bun from reading back, into rows that the walk still looks at, what the database
// made of them.
const nothing = "NULL"

func inParts[T any](rows []T, fn func(part []T) error) error {
	for len(rows) > 0 {
		n := min(len(rows), atOnce)
		if err := fn(rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// position gives events the positions that chat would give them in this transaction.
func position(ctx context.Context, tx *store.Tx, events []*model.Event) error {
	var first, step int64
	var err error
	if tx.Postgres() {
		err = tx.NewRaw("SELECT pg_current_xact_id()::text::bigint").Scan(ctx, &first)
	} else {
		step = 1
		err = tx.NewRaw("UPDATE event_position SET last = last + ? RETURNING last", len(events)).Scan(ctx, &first)
		first -= int64(len(events)) - 1
	}
	for i, e := range events {
		e.Position = first + int64(i)*step
	}
	return err
}

// insertMessages stores messages with their words.
func insertMessages(ctx context.Context, tx *store.Tx, messages []*message) error {
	return inParts(messages, func(part []*message) error {
		q := tx.NewInsert().Model(&part).Returning(nothing)
		if tx.Postgres() {
			_, err := q.Exec(ctx)
			return err
		}
		if _, err := q.ExcludeColumn("tokens").Exec(ctx); err != nil {
			return err
		}
		var last int64
		if err := tx.NewRaw("SELECT last_insert_rowid()").Scan(ctx, &last); err != nil {
			return err
		}
		return insertWords(ctx, tx, part, last-int64(len(part))+1)
	})
}

// insertWords stores the words of messages whose rowids count up from the first.
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
	_, err := tx.ExecContext(ctx, "INSERT INTO message_tokens (rowid, tokens) VALUES "+strings.Join(values, ", "), args...)
	return err
}

// tsvector writes words as PostgreSQL reads them. They are letters, marks, digits, or one symbol:
// there is nothing to quote.
func tsvector(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "'" + strings.Join(words, "' '") + "'"
}

// settle stores how the conversations stand in the end, their members, and last the passwords.
func settle(ctx context.Context, tx *store.Tx, w *walk) error {
	for _, c := range w.conversations {
		w.settle(c)
		if err := insert(ctx, tx, c.members); err != nil {
			return err
		}
		_, err := tx.NewUpdate().Model(&c.Conversation).
			Column("title", "untitled", "members_may_rename", "last_seq", "last_message_seq", "last_activity_at").WherePK().Exec(ctx)
		if err != nil {
			return err
		}
	}
	// As auth makes them. One for all: a thousand would take half a minute.
	hash, err := argon2id.CreateHash(Password,
		&argon2id.Params{Memory: 19 * 1024, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32})
	if err != nil {
		return err
	}
	credentials := make([]*model.Credentials, len(w.people))
	for i, u := range w.people {
		credentials[i] = &model.Credentials{UserID: u.ID, PasswordHash: hash, UpdatedAt: u.CreatedAt}
	}
	return insert(ctx, tx, credentials)
}

// hurry has the database take its time less for what could be made again, and returns what ends
// that.
func hurry(ctx context.Context, db *store.DB) (resume func() error, err error) {
	after := context.WithoutCancel(ctx)
	if db.Postgres() {
		// What autovacuum would come to do: planner's figures, and the words that wait to be sorted
		// in.
		return func() error { return runEach(after, db, "VACUUM (ANALYZE)") }, nil
	}
	return func() error {
		return runEach(after, db, "PRAGMA synchronous = FULL", "PRAGMA cache_size = -16000", "PRAGMA wal_checkpoint(TRUNCATE)")
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
