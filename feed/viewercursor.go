package feed

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/uptrace/bun"

	"parley/errs"
	"parley/model"
	"parley/store"
)

// watermark is a place in the order of all events: by position and, at the same position, by
// conversation, because one transaction can write to thousands of conversations.
type watermark struct {
	position int64
	// conversation is the last one whose events at position are below the watermark too; the zero
	// value is before all conversations.
	conversation model.ConversationID
}

// isBelow reports whether what is written at a position in a conversation is below the watermark.
func (w watermark) isBelow(position int64, id model.ConversationID) bool {
	return position < w.position || position == w.position &&
		model.CompareIDs(id, w.conversation) <= 0
}

// viewerCursor is where a stream of a viewer's events stands. In the conversations that it names,
// the keys of delivered, it has delivered the events up to a seq; in all others every event below
// low; and no other event. docs/adr/0014-one-stream-of-everything.md argues why no event can fall
// between.
type viewerCursor struct {
	// checkpoint is the id of a checkpoint. If the database has it, then it has everything below
	// low.
	checkpoint int64
	low        watermark
	delivered  map[model.ConversationID]progress
}

// progress is how far a stream has delivered a conversation: every event up to the place. If ended
// is set, the place is that of the membership's end, whose Left is delivered too.
type progress struct {
	Place
	ended bool
}

// signed returns the number by which a cursor encodes the seq of a progress; it is negative if the
// membership has ended.
func (p progress) signed() int64 {
	if p.ended {
		return -p.Seq
	}
	return p.Seq
}

// progressOf is the reverse of signed.
func progressOf(signed int64, mark model.Mark) progress {
	return progress{Place{max(signed, -signed), mark}, signed < 0}
}

const (
	viewerEventsList = 'e' // the letter that these cursors begin with
	cursorMAC        = 16  // bytes of a cursor's HMAC
	cursorVersion    = 2   // of what follows the HMAC
	// maxNamed is how many conversations the cursor of a live stream names at most. sweepNamed is
	// how many more it may name while the stream sweeps. Each takes up to 29 bytes, because a seq
	// has 31 bits, and the rest up to 72. In base64 that is less than store.MaxCursor, with room
	// for a few more fields.
	maxNamed, sweepNamed = 80, 20
)

// cursorKey authenticates the cursors of this database's streams. Nothing else is signed with it.
// It is a row of the database, not a setting: every node has it, it survives restarts and the
// rotation of keys for access tokens, and it is restored together with the positions that give a
// cursor its meaning.
type cursorKey []byte

// cursorKey reads the key when it is first needed, and keeps it.
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

// mac returns the HMAC of a cursor's content for one account.
func (k cursorKey) mac(owner model.UserID, content []byte) []byte {
	h := hmac.New(sha256.New, k)
	h.Write([]byte("cursor of events\x00"))
	h.Write(owner[:])
	h.Write(content)
	return h.Sum(nil)[:cursorMAC]
}

// encode returns the cursor's text: the letter of the list, an HMAC, and the content. The content
// is a version byte, the checkpoint, the low watermark, the number of named conversations, and each
// of them with its progress. Checkpoint and marks have 8 bytes, ids 16; other numbers are varints.
// Later versions add their fields at the end.
func (c viewerCursor) encode(key cursorKey, owner model.UserID) string {
	b := make([]byte, 0, 72+27*len(c.delivered))
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.checkpoint))
	b = binary.AppendVarint(b, c.low.position)
	b = append(b, c.low.conversation[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.delivered)))
	for id, p := range c.delivered {
		b = append(b, id[:]...)
		b = binary.AppendVarint(b, p.signed())
		b = binary.BigEndian.AppendUint64(b, uint64(p.Mark))
	}
	return store.NewCursor(viewerEventsList).Bytes(key.mac(owner, b)).Bytes(b).String()
}

var errCursorContent = errors.New("an authentic cursor cannot be read")

// readViewerCursor decodes a cursor. It returns BAD_USER_INPUT if this database has not made it for
// the owner. The content of another version, as a node that is updated earlier or later may have
// made it, is not read: the checkpoint stays 0, which does not exist, so the stream is reset.
func readViewerCursor(key cursorKey, owner model.UserID, s string) (c viewerCursor, err error) {
	r := store.ReadCursor(viewerEventsList, s)
	mac, content := r.ReadBytes(cursorMAC), r.ReadRest()
	if r.Done() != nil || !hmac.Equal(mac, key.mac(owner, content)) {
		return c, errs.New(errs.BadUserInput,
			"after: That is not a cursor of events that this server has made for this account. "+
				"Send one as it came, or none to start from now.")
	}
	c.delivered = map[model.ConversationID]progress{}
	if len(content) == 0 || content[0] != cursorVersion {
		return c, nil
	}
	f := cursorFields{b: content[1:]}
	c.checkpoint, c.low.position, c.low.conversation = f.int64(), f.varint(), f.id()
	for range f.varintUnsigned() {
		if f.b == nil {
			return c, errCursorContent
		}
		id := f.id()
		c.delivered[id] = progressOf(f.varint(), model.Mark(f.int64()))
	}
	if f.b == nil {
		return c, errCursorContent
	}
	return c, nil
}

// cursorFields reads the rest of a cursor's content.
type cursorFields struct {
	b []byte // nil once it has ended too early
}

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

func (f *cursorFields) int64() int64 {
	if len(f.b) < 8 {
		f.b = nil
		return 0
	}
	v := binary.BigEndian.Uint64(f.b)
	f.b = f.b[8:]
	return int64(v)
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

// ViewerEventsCursor returns where the stream of the actor's events stands now. A client that then
// reads something else, and follows from this cursor, misses nothing in between.
func (s *Service) ViewerEventsCursor(ctx context.Context, actor model.Actor) (string, error) {
	key, err := s.cursorKey(ctx)
	if err != nil {
		return "", err
	}
	now, err := s.newestCheckpoint(ctx)
	if err != nil {
		return "", err
	}
	c := viewerCursor{
		checkpoint: now.id, low: watermark{position: now.low},
		delivered: map[model.ConversationID]progress{},
	}
	// The events that are stored above the low watermark are before this cursor.
	var recent []struct {
		ConversationID      model.ConversationID
		First, Last, Newest int64
		Count               int64
	}
	if err := s.movedSince(actor, c.low).Scan(ctx, &recent); err != nil {
		return "", store.Error(err)
	}
	// If they are too many, the stream delivers them again, like events from while the client
	// reads.
	if len(recent) <= s.opts.maxNamed {
		keys := make([]EventKey, len(recent))
		for i, moved := range recent {
			keys[i] = EventKey{moved.ConversationID, moved.Last}
		}
		newest, err := s.Places(ctx, keys)
		if err != nil {
			return "", err
		}
		for key, place := range newest {
			c.delivered[key.Conversation] = progress{Place: place}
		}
	}
	return c.encode(key, actor.UserID), nil
}

// movedSince selects the actor's conversations that have events above a low watermark, with the
// seqs of the first and the last of these events, their highest position, and how many they are.
// See inViewerConversations for which events count.
func (s *Service) movedSince(actor model.Actor, low watermark) *bun.SelectQuery {
	q := inViewerConversations(s.db.NewSelect().Model((*model.Event)(nil)), actor).
		ColumnExpr("e.conversation_id, min(e.seq) AS first, max(e.seq) AS last").
		ColumnExpr("max(e.position) AS newest, count(*) AS count").
		Where("e.position >= ?", low.position).GroupExpr("e.conversation_id")
	if low.conversation != (model.ConversationID{}) {
		q = q.Where("(e.position, e.conversation_id) > (?, ?)", low.position, low.conversation)
	}
	return q
}

// inViewerConversations narrows a query to the events of the actor's conversations. In each, they
// begin with the one that made the actor a member.
func inViewerConversations(q *bun.SelectQuery, actor model.Actor) *bun.SelectQuery {
	return q.Join("JOIN conversation_members AS cm ON cm.conversation_id = e.conversation_id").
		Where("cm.user_id = ?", actor.UserID).Where("e.seq >= cm.joined_seq")
}
