package chat

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// lowWatermark divides the events of all conversations in two, by their position and, at the same
// position, by their conversation, because one transaction can write to thousands of conversations.
// The zero conversation is before all others.
type lowWatermark struct {
	position int64
	// at that position, events of conversations up to this one are below too
	conversation model.ConversationID
}

// isBelow reports whether what is written at a position in a conversation is below the watermark.
func (l lowWatermark) isBelow(position int64, id model.ConversationID) bool {
	return position < l.position || position == l.position && compareBytes(id, l.conversation) <= 0
}

// myCursor is where a stream of everything stands: it has delivered every event below the low
// watermark, and of the conversations in told everything up to that seq, and nothing else; a
// negative one is that of the membership's end, which has been delivered too. docs/adr has the
// argument why nothing can fall through.
type myCursor struct {
	epoch int64
	low   lowWatermark
	told  map[model.ConversationID]int64
}

const (
	myStreamList  = 'e' // the letter of its cursors
	cursorMAC     = 16  // bytes of the HMAC that a cursor has
	cursorVersion = 1   // of what follows the HMAC
	// maxNamed is how many conversations the cursor of a live stream names at most, and sweepNamed
	// how many more it may name while the stream sweeps. One has up to 26 bytes, everything else up
	// to 64: with base64 that is within store.MaxCursor, with room for some fields more.
	maxNamed, sweepNamed = 80, 20
)

// cursorKey authenticates the cursors of this database's streams. Nothing else is signed with it.
// It is a row of the database, and no setting: every node has it, it outlives restarts and the keys
// of access tokens, which are replaced, and it comes and goes with the positions that make a cursor
// worth something.
type cursorKey []byte

// cursorKey reads the key when it is needed first, and keeps it.
func (s *Service) cursorKey(ctx context.Context) (cursorKey, error) {
	if key := s.keptCursorKey.Load(); key != nil {
		return *key, nil
	}
	var secret []byte
	if err := s.db.NewSelect().Table("cursor_key").Column("secret").Scan(ctx, &secret); err != nil {
		return nil, store.Error(err)
	}
	key := cursorKey(secret)
	s.keptCursorKey.Store(&key)
	return key, nil
}

// mac is that of a cursor's content for one account.
func (k cursorKey) mac(owner model.UserID, content []byte) []byte {
	h := hmac.New(sha256.New, k)
	h.Write([]byte("cursor of events\x00"))
	h.Write(owner[:])
	h.Write(content)
	return h.Sum(nil)[:cursorMAC]
}

// encode makes the cursor's text: the letter of the list, an HMAC, and the content. The content is
// a version, and then in varints the epoch, the low watermark and the conversations; fields of a
// later version come behind these.
func (c myCursor) encode(key cursorKey, owner model.UserID) string {
	b := make([]byte, 0, 64+20*len(c.told))
	b = append(b, cursorVersion)
	b = binary.AppendVarint(b, c.epoch)
	b = binary.AppendVarint(b, c.low.position)
	b = append(b, c.low.conversation[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.told)))
	for id, seq := range c.told {
		b = append(b, id[:]...)
		b = binary.AppendVarint(b, seq)
	}
	return store.NewCursor(myStreamList).Bytes(key.mac(owner, b)).Bytes(b).String()
}

var errCursorContent = errors.New("an authentic cursor cannot be read")

// readMyCursor reads nothing of a cursor that this database has not made for the owner:
// BAD_USER_INPUT. One of another version, as a node that is updated later or earlier may have made
// it, is of no epoch.
func readMyCursor(key cursorKey, owner model.UserID, s string) (c myCursor, err error) {
	r := store.ReadCursor(myStreamList, s)
	mac, content := r.ReadBytes(cursorMAC), r.ReadRest()
	if r.Done() != nil || !hmac.Equal(mac, key.mac(owner, content)) {
		return c, errs.New(errs.BadUserInput,
			"after: That is not a cursor of events that this server has made for this account. Send one as it came, or none to start from now.")
	}
	c.told = map[model.ConversationID]int64{}
	if len(content) == 0 || content[0] != cursorVersion {
		return c, nil
	}
	f := cursorFields{content[1:]}
	c.epoch, c.low.position, c.low.conversation = f.varint(), f.varint(), f.id()
	for range f.varintUnsigned() {
		if f.b == nil {
			return c, errCursorContent
		}
		id := f.id()
		c.told[id] = f.varint()
	}
	if f.b == nil {
		return c, errCursorContent
	}
	return c, nil
}

// cursorFields reads what is left of a cursor's content; nil once it has ended too early.
type cursorFields struct{ b []byte }

func (f *cursorFields) skip(n int) {
	if n <= 0 {
		f.b = nil
		return
	}
	f.b = f.b[n:]
}

func (f *cursorFields) varint() int64 {
	v, n := binary.Varint(f.b)
	f.skip(n)
	return v
}

func (f *cursorFields) varintUnsigned() uint64 {
	v, n := binary.Uvarint(f.b)
	f.skip(n)
	return v
}

func (f *cursorFields) id() (id model.ConversationID) {
	if len(f.b) < len(id) {
		f.b = nil
		return id
	}
	copy(id[:], f.b)
	f.b = f.b[len(id):]
	return id
}

// MyEventsCursor is where the actor's stream of everything stands now: who reads something after
// this, and follows from here, misses nothing in between.
func (s *Service) MyEventsCursor(ctx context.Context, actor model.Actor) (string, error) {
	key, err := s.cursorKey(ctx)
	if err != nil {
		return "", err
	}
	epoch, err := s.epoch(ctx)
	if err != nil {
		return "", err
	}
	horizon, err := s.horizon(ctx)
	if err != nil {
		return "", err
	}
	c := myCursor{epoch: epoch, low: lowWatermark{position: horizon}, told: map[model.ConversationID]int64{}}
	// What is beyond the horizon and stored already was there before the cursor was.
	var recent []struct {
		ConversationID      model.ConversationID
		First, Last, Newest int64
	}
	if err := s.movedSince(actor, c.low).Scan(ctx, &recent); err != nil {
		return "", store.Error(err)
	}
	// else it comes again, as what is stored while the client reads does
	if len(recent) <= s.opts.maxNamed {
		for _, moved := range recent {
			c.told[moved.ConversationID] = moved.Last
		}
	}
	return c.encode(key, actor.UserID), nil
}

// movedSince finds those of the actor's conversations that have events beyond a low watermark: the
// first and the last of them, by seq, and the highest position. Of each conversation the events
// count from the one that made the actor a member.
func (s *Service) movedSince(actor model.Actor, low lowWatermark) *bun.SelectQuery {
	q := inMyConversations(s.db.NewSelect().Model((*model.Event)(nil)), actor).
		ColumnExpr("e.conversation_id, min(e.seq) AS first, max(e.seq) AS last, max(e.position) AS newest").
		Where("e.position >= ?", low.position).GroupExpr("e.conversation_id")
	if low.conversation != (model.ConversationID{}) {
		q = q.Where("(e.position, e.conversation_id) > (?, ?)", low.position, low.conversation)
	}
	return q
}

// inMyConversations keeps the events of a query that are in the actor's conversations, from the one
// that made them a member.
func inMyConversations(q *bun.SelectQuery, actor model.Actor) *bun.SelectQuery {
	return q.Join("JOIN conversation_members AS cm ON cm.conversation_id = e.conversation_id").
		Where("cm.user_id = ?", actor.UserID).Where("e.seq >= cm.joined_seq")
}

// epoch is which life of the database's positions this is.
func (s *Service) epoch(ctx context.Context) (epoch int64, err error) {
	return epoch, store.Error(s.db.NewSelect().Table("stream_epoch").Column("epoch").Scan(ctx, &epoch))
}

// CheckEpoch begins a new epoch where the database has positions that its server has yet to reach:
// it was restored from another one, whose numbers say nothing here. It has to be done before
// anything is served.
func (s *Service) CheckEpoch(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil // the counter is restored with what it has counted
	}
	return s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		// Whatever this sees was written below the snapshot's end.
		const ahead = "%s >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
		restored := false
		for table, column := range map[string]string{
			"stream_epoch": "reached", "conversation_members": "position", "departures": "position",
		} {
			there, err := tx.NewSelect().Table(table).ColumnExpr("1").Where(fmt.Sprintf(ahead, column)).Exists(ctx)
			if err != nil {
				return err
			}
			restored = restored || there
		}
		if !restored {
			return nil
		}
		s.opts.Log.Warn("this database comes from another server: streams of events begin anew")
		for _, table := range []string{"events", "conversation_members", "departures"} {
			if _, err := tx.NewRaw("UPDATE ? SET position = 0", bun.Ident(table)).Exec(ctx); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE stream_epoch SET epoch = epoch + 1, reached = 0")
		return err
	})
}

// noteReached keeps how far positions have come, for the horizon, and for CheckEpoch, which would
// have to read every event to know.
//
// A transaction that was rolled back may leave no trace on disk. When PostgreSQL crashes right
// after, it gives its id again, to one that commits: below a horizon that was read in between,
// although nothing was to come there. So a horizon is worth only as much as what has been committed
// since. This commits, with an id beyond all that it has found to be settled.
func (s *Service) noteReached(ctx context.Context) error {
	if !s.db.Postgres() {
		return nil
	}
	_, err := s.db.NewUpdate().Table("stream_epoch").Set("reached = pg_current_xact_id()::text::bigint").
		Where("reached + 1 < pg_snapshot_xmin(pg_current_snapshot())::text::bigint").Exec(ctx)
	return store.Error(err)
}
