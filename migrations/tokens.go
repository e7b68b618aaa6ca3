package migrations

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/dialect/pgdialect"

	"parley/text"
)

// indexBatch is how many messages one statement reads.
const indexBatch = 500

// indexMessages indexes the words of the messages that exist.
func indexMessages(ctx context.Context, tx bun.Tx) error {
	for last := (uuid.UUID{}); ; {
		var found []struct {
			ID      uuid.UUID
			Content string
		}
		err := tx.NewSelect().Table("messages").Column("id", "content").Where("id > ?", last).
			Where("deleted_at IS NULL").
			OrderExpr("id").Limit(indexBatch).Scan(ctx, &found)
		if err != nil || len(found) == 0 {
			return err
		}
		for _, message := range found {
			tokens := text.Tokens(message.Content)
			if err := indexMessage(ctx, tx, message.ID, tokens); err != nil {
				return err
			}
			last = message.ID
		}
	}
}

// keepTokens does nothing: the tokens are deleted when the migration before this one is reverted.
func keepTokens(context.Context, bun.Tx) error { return nil }

func indexMessage(ctx context.Context, tx bun.Tx, id uuid.UUID, tokens []string) error {
	if tx.Dialect().Name() == dialect.PG {
		_, err := tx.ExecContext(ctx,
			"UPDATE messages SET tokens = array_to_tsvector(?::text[]) WHERE id = ?",
			pgdialect.Array(tokens), id)
		return err
	}
	_, err := tx.ExecContext(ctx,
		"INSERT INTO message_tokens (rowid, tokens) SELECT rowid, ? FROM messages WHERE id = ?",
		strings.Join(tokens, " "), id)
	return err
}
