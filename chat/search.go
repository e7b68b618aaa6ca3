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

// Search is what somebody looks for in their conversations.
type Search struct {
	Query          string
	ConversationID *model.ConversationID
	AuthorID       *model.UserID
	SentAfter      *time.Time // exclusive, as is SentBefore
	SentBefore     *time.Time
}

// Found is a message that a search has found.
type Found struct {
	Message *model.Message
	snippet func() []*text.Part
}

// Snippet is a part of the content that shows why the message was found. It takes a while to cut
// out of a long one, so that is done once, and only if it is asked for.
func (f *Found) Snippet() []*text.Part { return f.snippet() }

const searchList = 's' // the letter of this list's cursors

// FoundCursor is where a message stands in what a search finds.
func FoundCursor(f *Found) string {
	return store.NewCursor(searchList).Time(f.Message.CreatedAt).UUID(f.Message.ID).String()
}

// SearchMessages finds the messages, in the actor's own conversations, that have all of the words,
// newest first. BAD_USER_INPUT where there is nothing to look for.
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
	var position []any
	if window.Cursor != "" {
		cursor := store.ReadCursor(searchList, window.Cursor)
		position = []any{cursor.ReadTime(), model.MessageID(cursor.ReadUUID())}
		if err := cursor.Done(); err != nil {
			return none, err
		}
	}
	if err := s.opts.Limits.Take(ctx, actor.UserID, ratelimit.Searches.Times(1)); err != nil {
		return none, err
	}
	var messages []*model.Message
	q := s.db.NewSelect().Model(&messages).Apply(membership.Shared(actor, "m.conversation_id")).
		Where("m.seq > viewer.hidden_seq").Apply(in.narrow, s.having(terms))
	newestFirst := store.Order{Columns: []string{"m.created_at", "m.id"}, Descending: true}
	if err := window.Apply(q, newestFirst, position...).Scan(ctx); err != nil {
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
		return nil, errs.New(errs.BadUserInput, "query: It %s.", problem)
	}
	if n := text.Len(in.Query); n > maxQuery {
		return nil, errs.New(errs.BadUserInput, "query: At most %d characters, not %d.", maxQuery,
			n)
	}
	terms := text.Terms(in.Query)
	switch {
	case len(terms) == 0:
		return nil, errs.New(errs.BadUserInput, "query: There is no word in it to look for.")
	case len(terms) > maxTerms:
		return nil, errs.New(errs.BadUserInput, "query: At most %d words, not %d.", maxTerms,
			len(terms))
	}
	return terms, nil
}

func (in Search) narrow(q *bun.SelectQuery) *bun.SelectQuery {
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

// having narrows a query to the messages that have all of the terms.
func (s *Service) having(terms []string) func(*bun.SelectQuery) *bun.SelectQuery {
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		if s.db.Postgres() {
			// A term is letters, marks, digits, or one symbol: there is nothing in it to quote.
			return q.Where("m.tokens @@ ?::tsquery", "'"+strings.Join(terms, "' & '")+"'")
		}
		return q.Where("m.rowid IN (SELECT rowid FROM message_tokens WHERE message_tokens MATCH ?)",
			`"`+strings.Join(terms, `" "`)+`"`)
	}
}

// tokensValue is what PostgreSQL stores of a message's words.
func tokensValue(m *model.Message) schema.QueryWithArgs {
	if m.DeletedAt != nil {
		return bun.SafeQuery("NULL")
	}
	return bun.SafeQuery("array_to_tsvector(?::text[])", pgdialect.Array(text.Tokens(m.Content)))
}

// indexMessage has searches find a message by the words that it has now.
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

// tokenText is what SQLite stores of a message's words.
func tokenText(m *model.Message) string { return strings.Join(text.Tokens(m.Content), " ") }
