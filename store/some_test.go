package store_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/uptrace/bun"

	"parley/store"
	"parley/store/storetest"
)

// counter counts statements that delete.
type counter struct{ n atomic.Int64 }

func (*counter) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (c *counter) AfterQuery(_ context.Context, e *bun.QueryEvent) {
	if e.Operation() == "DELETE" {
		c.n.Add(1)
	}
}

func TestDeleteInBatches(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		deletes := new(counter)
		db.Watch(deletes)
		for i := range 2*store.SomeAtOnce + 20 {
			_, err := db.NewRaw("INSERT INTO rate_limits (key, at, count) VALUES (?, ?, ?)",
				fmt.Sprint(i), db.Now(), i).Exec(t.Context())
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := db.DeleteInBatches(t.Context(), "rate_limits", "count >= ?", 10); err != nil {
			t.Fatal(err)
		}
		if n, err := db.NewSelect().Table("rate_limits").Count(t.Context()); n != 10 || err != nil {
			t.Errorf("%d rows are left (%v), want 10", n, err)
		}
		if n := deletes.n.Load(); n != 3 {
			t.Errorf("in %d statements, want 3", n)
		}
		err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			n, err := tx.UpdateSome(ctx, "rate_limits", "count = 0", "count > ?", 3)
			if n != 6 {
				t.Errorf("%d rows were updated, want 6", n)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
