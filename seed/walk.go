package seed

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"parley/model"
	"parley/text"
)

// walk goes through the year, from one moment at which something happens to the next.
type walk struct {
	rng    *rand.Rand
	now    time.Time // when the year ends
	size   Size
	people []*model.User
	speaks []int // which of the languages, by person

	conversations []*conversation
	moments       moments
	batch         *batch
}

// batch is what is stored in one transaction.
type batch struct {
	conversations []*model.Conversation // as they began
	events        []*model.Event
	messages      []*message
	mentions      []*model.Mention
	reactions     []*model.Reaction
}

// message is one with its words, which are nil once it is deleted.
type message struct {
	model.Message `bun:",extend"`
	Words         []string `bun:"-"`
	Tokens        *string  `bun:",type:tsvector"` // of the words; PostgreSQL only
}

// batchSize is how many events are stored in one transaction.
const batchSize = 2000

// moment is when something happens. The number keeps two of the same time in order.
type moment struct {
	at     time.Time
	number int
	happen func(at time.Time)
}

type moments struct {
	list  []moment
	count int
}

func (m *moments) Len() int { return len(m.list) }
func (m *moments) Less(i, j int) bool {
	if a, b := m.list[i], m.list[j]; !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return m.list[i].number < m.list[j].number
}
func (m *moments) Swap(i, j int) { m.list[i], m.list[j] = m.list[j], m.list[i] }
func (m *moments) Push(x any)    { m.list = append(m.list, x.(moment)) }
func (m *moments) Pop() any {
	last := m.list[len(m.list)-1]
	m.list = m.list[:len(m.list)-1]
	return last
}

func (w *walk) at(t time.Time, happen func(at time.Time)) {
	w.moments.count++
	heap.Push(&w.moments, moment{t, w.moments.count, happen})
}

// through goes through everything that happens, and gives it away batch by batch. It ends early
// when give says so.
func (w *walk) through(give func(*batch) bool) {
	w.plan()
	w.batch = &batch{}
	for w.moments.Len() > 0 {
		next := heap.Pop(&w.moments).(moment)
		next.happen(next.at)
		if len(w.batch.events) >= batchSize {
			if !give(w.batch) {
				return
			}
			w.batch = &batch{}
		}
	}
	give(w.batch)
}

// record writes an event, with the next seq of its conversation.
func (w *walk) record(c *conversation, kind model.EventKind, at time.Time, actor model.UserID, m *model.Message, data any) {
	c.LastSeq++
	switch kind {
	case model.MessageEdited, model.MessageDeleted, model.ReactionAdded, model.ReactionRemoved: // no activity
	case model.MessageAdded:
		c.LastMessageSeq = c.LastSeq
		fallthrough
	default:
		c.LastActivityAt = at
	}
	e := &model.Event{ConversationID: c.ID, Seq: c.LastSeq, Kind: kind, ActorID: &actor, At: at}
	if m != nil {
		e.MessageID = &m.ID
	}
	var err error
	if e.Data, err = json.Marshal(data); err != nil {
		panic(err) // structs of strings and numbers
	}
	w.batch.events = append(w.batch.events, e)
}

// remembered is how many of its newest messages a conversation keeps, to be answered.
const remembered = 12

// talk adds one message, and what will come of it.
func (w *walk) talk(c *conversation, at time.Time) {
	author := w.author(c)
	m := &message{Message: model.Message{
		ID: model.MessageID(w.id(at)), ConversationID: c.ID, Seq: c.LastSeq + 1, AuthorID: &author.UserID, CreatedAt: at,
	}}
	spoken := c.spoken
	if w.chance(0.15) {
		spoken = w.speaks[c.numbers[author.UserID]]
	}
	m.Content = w.say(spoken)
	var named *model.ConversationMember
	if c.Kind == model.Group && w.chance(0.08) {
		named = c.members[w.among(len(c.members))]
		m.Content = "@" + w.people[c.numbers[named.UserID]].Nickname + " " + m.Content
	}
	if w.chance(0.12) {
		w.answer(c, author, m)
	}
	key := uuid.UUID(w.id(at)).String()
	m.IdempotencyKey, m.RequestHash = &key, requestHash(&m.Message)
	w.record(c, model.MessageAdded, at, author.UserID, &m.Message, struct{}{})

	switch fate, soon := w.rng.Float64(), w.soon(at); {
	case soon.After(w.now):
	case fate < 0.01:
		w.takeAway(c, m, soon)
	case fate < 0.04:
		m.Content += "\n(" + w.say(spoken) + ")"
		m.EditedAt = &soon
		c.pending++
		w.at(soon, func(at time.Time) {
			c.pending--
			w.record(c, model.MessageEdited, at, author.UserID, &m.Message, struct{}{})
		})
	case fate < 0.20:
		w.reactTo(c, m, at)
	}
	if m.DeletedAt == nil {
		m.index()
		if named != nil {
			w.batch.mentions = append(w.batch.mentions, &model.Mention{
				ConversationID: c.ID, UserID: named.UserID, Seq: m.Seq, MessageID: m.ID,
			})
		}
	}
	w.batch.messages = append(w.batch.messages, m)
	if c.recent = append(c.recent, &m.Message); len(c.recent) > remembered {
		c.recent = c.recent[1:]
	}
}

// index finds the words of a message, as chat does.
func (m *message) index() {
	m.Words = text.Tokens(m.Content)
	tokens := tsvector(m.Words)
	m.Tokens = &tokens
}

// answer has a message refer to one of those before it, that its author sees.
func (w *walk) answer(c *conversation, author *model.ConversationMember, m *message) {
	if len(c.recent) == 0 {
		return
	}
	if to := c.recent[w.among(len(c.recent))]; to.Seq > author.HiddenSeq {
		m.ReplyToID = &to.ID
	}
}

// requestHash is what chat keeps of a request with a key.
func requestHash(m *model.Message) []byte {
	request := m.Content
	if m.ReplyToID != nil {
		request += "\x00" + m.ReplyToID.String()
	}
	sum := sha256.Sum256([]byte(request))
	return sum[:]
}

// takeAway deletes a message a little later: its author does.
func (w *walk) takeAway(c *conversation, m *message, later time.Time) {
	m.Content, m.RequestHash, m.DeletedAt = "", nil, &later
	c.pending++
	w.at(later, func(at time.Time) {
		c.pending--
		w.record(c, model.MessageDeleted, at, *m.AuthorID, &m.Message, struct{}{})
	})
}

// reactTo has some of the members react to a message, one after the other.
func (w *walk) reactTo(c *conversation, m *message, at time.Time) {
	there := map[string][]model.UserID{} // who has put which emoji
	for n := 1 + int(w.rng.ExpFloat64()); n > 0; n-- {
		if at = w.soon(at); at.After(w.now) {
			return
		}
		w.at(at, func(at time.Time) { w.react(c, &m.Message, there, at) })
	}
}

func (w *walk) react(c *conversation, m *model.Message, there map[string][]model.UserID, at time.Time) {
	by := c.members[w.among(len(c.members))]
	emoji := reactions[min(int(w.rng.ExpFloat64()*2.5), len(reactions)-1)]
	if by.HiddenSeq >= m.Seq || slices.Contains(there[emoji], by.UserID) {
		return
	}
	there[emoji] = append(there[emoji], by.UserID)
	w.record(c, model.ReactionAdded, at, by.UserID, m,
		model.ReactionData{UserID: by.UserID, Emoji: emoji, Count: len(there[emoji])})
	if later := w.soon(at); w.chance(0.03) && !later.After(w.now) {
		c.pending++
		w.at(later, func(at time.Time) {
			c.pending--
			there[emoji] = slices.DeleteFunc(there[emoji], func(id model.UserID) bool { return id == by.UserID })
			w.record(c, model.ReactionRemoved, at, by.UserID, m,
				model.ReactionData{UserID: by.UserID, Emoji: emoji, Count: len(there[emoji])})
		})
		return
	}
	w.batch.reactions = append(w.batch.reactions, &model.Reaction{
		ConversationID: c.ID, MessageID: m.ID, UserID: by.UserID, Emoji: emoji, CreatedAt: at,
	})
}

// author picks who speaks: a few do most of it.
func (w *walk) author(c *conversation) *model.ConversationMember {
	return c.members[min(int(w.rng.ExpFloat64()*float64(len(c.members))/4), len(c.members)-1)]
}

// soon is a few minutes later.
func (w *walk) soon(at time.Time) time.Time {
	return at.Add(time.Second + time.Duration(w.rng.ExpFloat64()*float64(3*time.Minute))).Truncate(time.Microsecond)
}

func (w *walk) among(n int) int         { return w.rng.IntN(n) }
func (w *walk) chance(p float64) bool   { return w.rng.Float64() < p }
func (w *walk) id(t time.Time) [16]byte { return uuidAt(t, w.rng) }

// uuidAt is a UUIDv7 (RFC 9562, section 6.2, method 3) of a time.
func uuidAt(t time.Time, rng *rand.Rand) (id [16]byte) {
	const perMilli = 1000 // microseconds
	micros := t.UnixMicro()
	binary.BigEndian.PutUint64(id[:], uint64(micros/perMilli)<<16)
	fraction := uint16(micros % perMilli * 4096 / perMilli)
	binary.BigEndian.PutUint16(id[6:], 0x7000|fraction)
	binary.BigEndian.PutUint64(id[8:], 0x8000_0000_0000_0000|rng.Uint64()>>2)
	return id
}
