package seed

import (
	"container/heap"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"parley/model"
	"parley/text"
)

// generator generates the events of the year. It is a discrete event simulation: an event may
// schedule later ones.
type generator struct {
	rng       *rand.Rand
	now       time.Time // when the year ends
	size      Size
	people    []*model.User
	languages []int // of the people

	conversations []*conversation
	schedule      schedule
	batch         *batch
}

// batch has the rows of one transaction.
type batch struct {
	conversations []*model.Conversation // as they began
	events        []*model.Event
	messages      []*message
	mentions      []*model.Mention
	reactions     []*model.Reaction
}

// message is a message with its words for searches, which are nil if it was deleted.
type message struct {
	model.Message `bun:",extend"`
	Words         []string `bun:"-"`
	Tokens        *string  `bun:",type:tsvector"` // of the words; PostgreSQL only
}

// batchSize is how many events one transaction stores.
const batchSize = 2000

// scheduled is an event at a time. The number keeps events of the same time in order.
type scheduled struct {
	at     time.Time
	number int
	run    func(at time.Time)
}

// schedule is a heap of events.
type schedule struct {
	list  []scheduled
	count int // of all events so far
}

func (s *schedule) Len() int { return len(s.list) }
func (s *schedule) Less(i, j int) bool {
	if a, b := s.list[i], s.list[j]; !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return s.list[i].number < s.list[j].number
}
func (s *schedule) Swap(i, j int) { s.list[i], s.list[j] = s.list[j], s.list[i] }
func (s *schedule) Push(x any)    { s.list = append(s.list, x.(scheduled)) }
func (s *schedule) Pop() any {
	last := s.list[len(s.list)-1]
	s.list = s.list[:len(s.list)-1]
	return last
}

// at schedules an event.
func (g *generator) at(t time.Time, run func(at time.Time)) {
	g.schedule.count++
	heap.Push(&g.schedule, scheduled{t, g.schedule.count, run})
}

// later schedules an event of a conversation for which no member may leave before.
func (g *generator) later(c *conversation, t time.Time, run func(at time.Time)) {
	c.pending++
	g.at(t, func(at time.Time) {
		c.pending--
		run(at)
	})
}

// run generates everything, and yields it in batches until yield returns false.
func (g *generator) run(yield func(*batch) bool) {
	g.plan()
	g.batch = &batch{}
	for g.schedule.Len() > 0 {
		next := heap.Pop(&g.schedule).(scheduled)
		next.run(next.at)
		if len(g.batch.events) >= batchSize {
			if !yield(g.batch) {
				return
			}
			g.batch = &batch{}
		}
	}
	yield(g.batch)
}

// record appends an event, with the next seq of its conversation.
func (g *generator) record(
	c *conversation, kind model.EventKind, at time.Time, actor model.UserID, m *model.Message,
	data any,
) {
	c.LastSeq++
	switch kind {
	case model.MessageEdited, model.MessageDeleted, model.ReactionAdded,
		model.ReactionRemoved: // not activity
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
	if kind != model.MessageAdded { // the end of the id is random; another seed makes other ids
		e.StoredMark = model.Mark(binary.BigEndian.Uint64(c.ID[8:])) ^ model.Mark(c.LastSeq)
	}
	var err error
	if e.Data, err = json.Marshal(data); err != nil {
		panic(err) // structs of strings and numbers
	}
	g.batch.events = append(g.batch.events, e)
}

// maxRecent is how many of the newest messages of a conversation may get replies.
const maxRecent = 12

// send adds a message, and schedules its edit, its deletion or the reactions to it.
func (g *generator) send(c *conversation, at time.Time) {
	author := g.author(c)
	m := &message{Message: model.Message{
		ID: model.MessageID(g.id(at)), ConversationID: c.ID, Seq: c.LastSeq + 1,
		AuthorID: &author.UserID, CreatedAt: at,
	}}
	language := c.language
	if g.chance(0.15) {
		language = g.languages[c.indexes[author.UserID]]
	}
	m.Content = g.compose(language)
	var named *model.ConversationMember
	if c.Kind == model.Group && g.chance(0.08) {
		named = c.members[g.among(len(c.members))]
		m.Content = "@" + g.people[c.indexes[named.UserID]].Nickname + " " + m.Content
	}
	if g.chance(0.12) {
		g.reply(c, author, m)
	}
	key := uuid.UUID(g.id(at)).String()
	m.IdempotencyKey, m.RequestHash = &key, m.HashRequest()
	g.record(c, model.MessageAdded, at, author.UserID, &m.Message, struct{}{})

	switch fate, soon := g.rng.Float64(), g.soon(at); {
	case soon.After(g.now):
	case fate < 0.01:
		g.deleteLater(c, m, soon)
	case fate < 0.04:
		m.Content += "\n(" + g.compose(language) + ")"
		m.EditedAt = &soon
		g.later(c, soon, func(at time.Time) {
			g.record(c, model.MessageEdited, at, author.UserID, &m.Message, struct{}{})
		})
	case fate < 0.20:
		g.reactLater(c, m, at)
	}
	if m.DeletedAt == nil {
		m.index()
		if named != nil {
			g.batch.mentions = append(g.batch.mentions, &model.Mention{
				ConversationID: c.ID, UserID: named.UserID, Seq: m.Seq, MessageID: m.ID,
			})
		}
	}
	g.batch.messages = append(g.batch.messages, m)
	if c.recent = append(c.recent, &m.Message); len(c.recent) > maxRecent {
		c.recent = c.recent[1:]
	}
}

// index sets the words of a message.
func (m *message) index() {
	m.Words = text.Tokens(m.Content)
	tokens := tsvector(m.Words)
	m.Tokens = &tokens
}

// reply makes a message a reply to a recent one that its author sees.
func (g *generator) reply(c *conversation, author *model.ConversationMember, m *message) {
	if len(c.recent) == 0 {
		return
	}
	if to := c.recent[g.among(len(c.recent))]; to.Seq > author.HiddenSeq {
		m.ReplyToID = &to.ID
	}
}

// deleteLater schedules that the author deletes a message.
func (g *generator) deleteLater(c *conversation, m *message, later time.Time) {
	m.Content, m.RequestHash, m.DeletedAt = "", nil, &later
	g.later(c, later, func(at time.Time) {
		g.record(c, model.MessageDeleted, at, *m.AuthorID, &m.Message, struct{}{})
	})
}

// reactLater schedules reactions to a message.
func (g *generator) reactLater(c *conversation, m *message, at time.Time) {
	by := map[string][]model.UserID{} // the users who reacted, by emoji
	for n := 1 + int(g.rng.ExpFloat64()); n > 0; n-- {
		if at = g.soon(at); at.After(g.now) {
			return
		}
		g.at(at, func(at time.Time) { g.react(c, &m.Message, by, at) })
	}
}

func (g *generator) react(
	c *conversation, m *model.Message, by map[string][]model.UserID, at time.Time,
) {
	user := c.members[g.among(len(c.members))]
	emoji := reactions[min(int(g.rng.ExpFloat64()*2.5), len(reactions)-1)]
	if user.HiddenSeq >= m.Seq || slices.Contains(by[emoji], user.UserID) {
		return
	}
	record := func(kind model.EventKind, at time.Time) {
		g.record(c, kind, at, user.UserID, m,
			model.ReactionData{UserID: user.UserID, Emoji: emoji, Count: len(by[emoji])})
	}
	by[emoji] = append(by[emoji], user.UserID)
	record(model.ReactionAdded, at)
	if later := g.soon(at); g.chance(0.03) && !later.After(g.now) {
		g.later(c, later, func(at time.Time) {
			by[emoji] = slices.DeleteFunc(by[emoji],
				func(id model.UserID) bool { return id == user.UserID })
			record(model.ReactionRemoved, at)
		})
		return
	}
	g.batch.reactions = append(g.batch.reactions, &model.Reaction{
		ConversationID: c.ID, MessageID: m.ID, UserID: user.UserID, Emoji: emoji, CreatedAt: at,
	})
}

// author picks the author of a message. A few members write most of them.
func (g *generator) author(c *conversation) *model.ConversationMember {
	return c.members[min(int(g.rng.ExpFloat64()*float64(len(c.members))/4), len(c.members)-1)]
}

// soon returns a time a few minutes later.
func (g *generator) soon(at time.Time) time.Time {
	return at.Add(time.Second + time.Duration(g.rng.ExpFloat64()*float64(3*time.Minute))).
		Truncate(time.Microsecond)
}

func (g *generator) among(n int) int         { return g.rng.IntN(n) }
func (g *generator) chance(p float64) bool   { return g.rng.Float64() < p }
func (g *generator) id(t time.Time) [16]byte { return uuidAt(t, g.rng) }

// uuidAt returns a UUIDv7 of a time (RFC 9562, section 6.2, method 3).
func uuidAt(t time.Time, rng *rand.Rand) (id [16]byte) {
	const perMilli = 1000 // microseconds
	micros := t.UnixMicro()
	binary.BigEndian.PutUint64(id[:], uint64(micros/perMilli)<<16)
	fraction := uint16(micros % perMilli * 4096 / perMilli)
	binary.BigEndian.PutUint16(id[6:], 0x7000|fraction)
	binary.BigEndian.PutUint64(id[8:], 0x8000_0000_0000_0000|rng.Uint64()>>2)
	return id
}
