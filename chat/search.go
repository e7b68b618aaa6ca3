package chat

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/schema"

	"parley/errs"
	"parley/membership"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/text"
)

const (
	maxQuery   = 200 // code points
	maxTerms   = 20
	maxSnippet = 160 // code points
)

// Search selects messages. A field that is nil selects all.
type Search struct {
	Query          string
	ConversationID *model.ConversationID
	AuthorID       *model.UserID
	SentAfter      *time.Time // exclusive, as is SentBefore
	SentBefore     *time.Time
}

// Found is a message that matches a search.
type Found struct {
	Message *model.Message
	snippet func() []*text.Part
}

// Snippet returns the part of the content that shows why the message was found. It is cut out when
// it is first called, because that takes long for a long message.
func (f *Found) Snippet() []*text.Part { return f.snippet() }

const searchList = 's' // the letter of this list's cursors

// FoundCursor is the cursor of a message in the results of a search.
func FoundCursor(f *Found) string {
	return store.NewCursor(searchList).Time(f.Message.CreatedAt).UUID(f.Message.ID).String()
}

// SearchMessages lists the messages in the actor's conversations that have all of the words, newest
// first. BAD_USER_INPUT if the query is too long, or has no words or too many.
func (s *Service) SearchMessages(
	ctx context.Context, actor model.Actor, in Search, page store.PageArgs,
) (store.Page[*Found], error) {
	var none store.Page[*Found]
	window, err := page.Window(store.DefaultPage{First: 20})
	if err != nil {
		return none, err
	}
	terms, err := in.terms()
	if err != nil {
		return none, err
	}
	var keyset []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(searchList, window.Cursor)
		keyset = []any{cursor.ReadTime(), model.MessageID(cursor.ReadUUID())}
		if err := cursor.Done(); err != nil {
			return none, err
		}
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Searches.Times(1)); err != nil {
		return none, err
	}
	var messages []*model.Message
	// This is not a text for store.Read, because the best plan depends on the words: whether an
	// index finds few messages by their tokens, or many.
	q := s.db.NewSelect().Model(&messages).Apply(membership.Shared(actor, "m.conversation_id")).
		Where("m.seq > viewer.hidden_seq").Apply(in.filter, s.withTerms(terms))
	newestFirst := store.Order{Columns: []string{"m.created_at", "m.id"}, Descending: true}
	if err := window.Apply(q, newestFirst, keyset...).Scan(ctx); err != nil {
		return none, store.Error(err)
	}
	found := make([]*Found, len(messages))
	for i, m := range messages {
		found[i] = &Found{m, sync.OnceValue(
			func() []*text.Part { return text.Snippet(m.Content, terms, maxSnippet) })}
	}
	return store.Cut(window, found), nil
}

func (in Search) terms() ([]string, error) {
	if problem := text.Problem(in.Query, true); problem != "" {
		return nil, errs.New(errs.BadUserInput, "query: The text %s.", problem)
	}
	if n := text.Len(in.Query); n > maxQuery {
		return nil, errs.New(errs.BadUserInput, "query: It may have at most %d characters, not %d.",
			maxQuery,
			n)
	}
	terms := text.Terms(in.Query)
	switch {
	case len(terms) == 0:
		return nil, errs.New(errs.BadUserInput, "query: It has no word to search for.")
	case len(terms) > maxTerms:
		return nil, errs.New(errs.BadUserInput, "query: It may have at most %d words, not %d.",
			maxTerms,
			len(terms))
	}
	return terms, nil
}

func (in Search) filter(q *bun.SelectQuery) *bun.SelectQuery {
	if in.ConversationID != nil {
		q = q.Where("m.conversation_id = ?", *in.ConversationID)
	}
	if in.AuthorID != nil {
		q = q.Where("m.author_id = ?", *in.AuthorID).Where(membership.NotRemoved("m.author_id"))
	}
	if in.SentAfter != nil {
		q = q.Where("m.created_at > ?", in.SentAfter.UTC())
	}
	if in.SentBefore != nil {
		q = q.Where("m.created_at < ?", in.SentBefore.UTC())
	}
	return q
}

// withTerms limits a query to messages that have all of the terms.
func (s *Service) withTerms(terms []string) func(*bun.SelectQuery) *bun.SelectQuery {
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		if s.db.Postgres() {
			// A term is letters, marks and digits, or one symbol, so it needs no escaping.
			return q.Where("m.tokens @@ ?::tsquery", "'"+strings.Join(terms, "' & '")+"'")
		}
		return q.Where("m.rowid IN (SELECT rowid FROM message_tokens WHERE message_tokens MATCH ?)",
			`"`+strings.Join(terms, `" "`)+`"`)
	}
}

// tokensValue is the value of messages.tokens on PostgreSQL.
func tokensValue(m *model.Message) schema.QueryWithArgs {
	if m.DeletedAt != nil {
		return bun.SafeQuery("NULL")
	}
	return bun.SafeQuery("array_to_tsvector(?::text[])", pgdialect.Array(text.Tokens(m.Content)))
}

// indexMessage replaces the tokens of a message with those of its current content.
func indexMessage(ctx context.Context, tx *store.Tx, m *model.Message) error {
	if tx.Postgres() {
		_, err := tx.NewUpdate().Model(m).Set("tokens = ?", tokensValue(m)).WherePK().Exec(ctx)
		return err
	}
	_, err := tx.ExecContext(ctx,
		"DELETE FROM message_tokens WHERE rowid = (SELECT rowid FROM messages WHERE id = ?)", m.ID)
	if err != nil || m.DeletedAt != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		"INSERT INTO message_tokens (rowid, tokens) SELECT rowid, ? FROM messages WHERE id = ?",
		tokenText(m), m.ID)
	return err
}

// tokenText joins the tokens of a message with spaces. SQLite stores this text, and the batch
// insert on PostgreSQL splits it into an array.
func tokenText(m *model.Message) string { return strings.Join(text.Tokens(m.Content), " ") }
