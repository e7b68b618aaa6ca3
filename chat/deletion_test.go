package chat_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"strings"
	"testing"

	"parley/chat"
	"parley/chat/chattest"
	"parley/model"
	"parley/store"
	"parley/store/storetest"
)

// places names the tables in which one of the needles stands, as text or as bytes.
func (w *fixture) places(needles ...[]byte) (found []string) {
	w.T.Helper()
	for _, table := range w.tables() {
		for _, row := range w.dump("SELECT * FROM " + table) {
			for _, needle := range needles {
				// PostgreSQL may write bytes in hex.
				if bytes.Contains([]byte(row), needle) ||
					strings.Contains(row, `\x`+hex.EncodeToString(needle)) {
					found = append(found, table)
				}
			}
		}
	}
	return found
}

// Of a message that is deleted no table has anything left but its place, and neither has the
// search's index, whose words stand in blobs.
func TestNothingIsLeftOfADeletedMessage(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		w.Send("ben", c.ID, "stays")
		contents := []string{"Zyxwvut quokkaword @ann 秘密鍵", "once again quokkaedited @ann"}
		in := chat.SendMessage{
			ConversationID: c.ID, Content: contents[0],
			IdempotencyKey: new("once"),
		}
		m, err := w.SendMessage(t.Context(), w.Actor("ben"), in)
		if err != nil {
			t.Fatal(err)
		}
		answer := w.reply("ann", m, "an answer")
		hash := sha256.Sum256([]byte(contents[0]))
		needles := [][]byte{
			hash[:], []byte("yxwvut"), []byte("quokka"), []byte("密鍵"), []byte("秘密"), []byte("@ann"),
			[]byte("🎉"), []byte("once again"),
		}
		w.addReaction("ann", m, "❤️")
		for _, needle := range needles[:6] {
			if len(w.places(needle)) == 0 {
				t.Errorf("before, %q was not found", needle)
			}
		}
		m = w.Edit("ben", m, contents[1])
		w.delete("ann", m)
		for _, needle := range needles {
			if found := w.places(needle); len(found) > 0 {
				t.Errorf("%q stands in %v", needle, found)
			}
		}
		for _, table := range []string{"mentions", "reactions"} {
			if n, err := countOf(w, table); n != 0 || err != nil {
				t.Errorf("%d of %s (%v)", n, table, err)
			}
		}
		if !db.Postgres() {
			chattest.WantEqual(t, "rows of the index",
				[]string{"tokens=an answer ", "tokens=stays "},
				w.dump("SELECT tokens FROM message_tokens"))
			w.Exec("INSERT INTO message_tokens (message_tokens) VALUES ('integrity-check')")
		}
		// The place is still there, empty, and what answers it still does.
		got, err := w.MessagesByID(t.Context(), w.Actor("ann"), []model.MessageID{m.ID, answer.ID})
		if err != nil || got[m.ID].Seq != m.Seq || got[m.ID].Content != "" ||
			*got[m.ID].AuthorID != w.UserID("ben") || *got[answer.ID].ReplyToID != m.ID {
			t.Errorf("there is %+v, answered by %+v (%v)", got[m.ID], got[answer.ID], err)
		}
		w.wantLogTells(t, c.ID)
	})
}

// What goes with its conversation leaves no words behind in the index, whose rows know nothing of
// conversations.
func TestNothingIsLeftOfAConversationThatEnds(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ben", c.ID, "quokkaword @ann")
		w.addReaction("ann", m, "🎉")
		w.MustRemoveAccount("ben")
		if err := w.Leave(t.Context(), w.Actor("ann"), c.ID); err != nil {
			t.Fatal(err)
		}
		if found := w.places([]byte("quokka"), []byte("🎉")); len(found) > 0 {
			t.Errorf("something stands in %v", found)
		}
		if !db.Postgres() {
			w.Exec("INSERT INTO message_tokens (message_tokens) VALUES ('integrity-check')")
		}
	})
}

// A failure at the very end takes all of it back.
func TestADeletionThatFailsTakesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := mustFixture(t, db, "ann", "ben")
		c := chattest.MustConversation(t, w.Fixture, "ann", "ben")
		m := w.Send("ben", c.ID, "quokkaword @ann")
		w.addReaction("ann", m, "🎉")
		before := w.contents(c.ID)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.DeleteMessage(ctx, w.Actor("ben"), m.ID); err == nil {
			t.Error("deleted without an end to wait for")
		}
		err := db.InTx(t.Context(), func(ctx context.Context, tx *store.Tx) error {
			m.DeletedAt = &tx.Now
			if err := chat.IndexMessage(ctx, tx, m); err != nil {
				return err
			}
			return sql.ErrTxDone // any error
		})
		if err == nil {
			t.Error("committed")
		}
		chattest.WantEqual(t, "what is stored", before, w.contents(c.ID))
		chattest.WantEqual(t, "what is found", []string{"quokkaword @ann"},
			w.search("ann", chat.Search{Query: "quokkaword"}))
	})
}
