package verify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// court is a ledger with one conversation of ann and ben, where ann writes. Messages are named by
// their seqs.
type court struct {
	*ledger
	now    time.Time
	stored []message
	log    []event // what the owner follows at the end; nil where nobody does
}

const (
	conv  = "conv_1"
	grace = 5 * time.Second
)

func newCourt(fromJoining bool) *court {
	c := &court{ledger: newLedger(grace), now: time.Unix(1_800_000_000, 0)}
	c.opened(conv, fromJoining, "ann", "ben")
	return c
}

func msg(seq int64) message {
	return message{ID: fmt.Sprint("msg_", seq), Seq: seq, Content: fmt.Sprint("content ", seq)}
}

// begin starts sends that are not answered yet.
func (c *court) begin(seqs ...int64) {
	for _, seq := range seqs {
		c.sending(conv, msg(seq).Content, c.now)
	}
}

// answer has sends answered.
func (c *court) answer(seqs ...int64) {
	for _, seq := range seqs {
		c.acknowledged(conv, msg(seq), msg(seq).Content, c.now)
		c.stored = append(c.stored, msg(seq))
	}
}

func (c *court) send(seqs ...int64) {
	for _, seq := range seqs {
		c.begin(seq)
		c.answer(seq)
	}
}

func (c *court) follow(person string) *subscription {
	return c.stream("a stream of "+person, conv, person, false).subscribe("sess_1")
}

func (s *subscription) get(c *court, seqs ...int64) {
	for _, seq := range seqs {
		s.receive(item{event: arrival(msg(seq))}, c.now)
	}
}

// resume is the same stream on another connection.
func (s *subscription) resume() *subscription { return s.subscribe("sess_1") }

// end lists what is stored, and settles.
func (c *court) end() {
	slices.SortFunc(c.stored, func(a, b message) int { return int(a.Seq - b.Seq) })
	c.listed(conv, c.stored)
	if c.log != nil {
		c.logged(conv, c.log)
	}
	c.settle()
}

func at(seq int64) span { return span{seq, seq} }

func TestTheLaw(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fromJoining bool
		play        func(c *court)
		want        counts // of breaches only
		first       string // what, and where
	}{
		"kept": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3, 5)
			s.get(c, 2, 3)
			s = s.resume()
			s.get(c, 5)
		}},
		"delivered before it is answered": {play: func(c *court) {
			s := c.follow("ben")
			c.begin(2)
			s.get(c, 2)
			c.answer(2)
		}},
		"lost in the middle": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3, 4)
			s.get(c, 2, 4)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost in the middle, and answered later": {play: func(c *court) {
			s := c.follow("ben")
			c.begin(2, 3)
			s.get(c, 3)
			c.answer(2, 3)
		}, want: counts{Lost: 1, Reordered: 0}, first: "lost 2"},
		"lost in the middle of what another stream has had": {play: func(c *court) {
			c.begin(2, 3)
			c.follow("ann").get(c, 2, 3)
			c.follow("ben").get(c, 3)
			c.answer(2, 3)
		}, want: counts{Lost: 1}, first: "lost 2"},
		"lost at the end": {play: func(c *court) {
			c.send(2, 3)
			c.follow("ben").get(c, 2)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost by a resume": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3, 4)
			s.get(c, 2)
			s.resume().get(c, 4)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"everything lost": {play: func(c *court) {
			c.follow("ben")
			c.send(2, 3)
		}, want: counts{Lost: 2}, first: "lost 2"},
		"doubled": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3)
			s.get(c, 2, 2, 3)
		}, want: counts{Doubled: 1}, first: "doubled 2"},
		"doubled by a resume": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3)
			s.get(c, 2, 3)
			s.resume().get(c, 2, 3)
		}, want: counts{Doubled: 2}, first: "doubled 2"},
		"reordered": {play: func(c *court) {
			s := c.follow("ben")
			c.begin(2, 3)
			s.get(c, 3, 2)
			c.answer(2, 3)
		}, want: counts{Reordered: 1}, first: "reordered 2"},
		"reordered, and missed at first": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3)
			s.get(c, 3, 2)
		}, want: counts{Reordered: 1}, first: "lost 2"},

		"leaked to a stranger": {play: func(c *court) {
			c.send(2)
			c.follow("eve").get(c, 2)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"leaked beyond the removal": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2)
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(3))
			c.send(4)
			s.get(c, 2, 4)
		}, want: counts{Leaked: 1}, first: "leaked 4"},
		"under way when the removal was confirmed": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2)
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(3))
			s.get(c, 2)
		}},
		"leaked beside what may be seen": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2)
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(3))
			c.send(4)
			s.receive(item{event: arrival(msg(2)), newest: 4}, c.now)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"beside what may be seen, the last before the removal": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3)
			c.removing(conv, "ben")
			s.receive(item{event: arrival(msg(2)), newest: 3}, c.now)
			c.removed(conv, "ben", at(4))
			s.receive(item{event: arrival(msg(3)), newest: 3}, c.now)
		}},
		"leaked to a subscription after the removal": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2)
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(3))
			s.resume().get(c, 2)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"the removal is not confirmed yet": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2)
			c.removing(conv, "ben")
			c.send(4)
			s.get(c, 2, 4)
		}},
		"back, and history is seen from the start": {play: func(c *court) {
			s := c.follow("ben")
			c.away("ben", 2, 4)
			s.resume().get(c, 3, 5)
		}},
		"back, and what was missed is lost": {play: func(c *court) {
			s := c.follow("ben")
			c.away("ben", 2, 4)
			s.resume().get(c, 5)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"back, and history begins with joining": {fromJoining: true, play: func(c *court) {
			s := c.follow("ben")
			c.away("ben", 2, 4)
			s.resume().get(c, 5)
		}},
		"back, and shown what was hidden": {fromJoining: true, play: func(c *court) {
			s := c.follow("ben")
			c.away("ben", 2, 4)
			s.resume().get(c, 3, 5)
		}, want: counts{Leaked: 1}, first: "leaked 3"},
		"back, and what came after is lost": {fromJoining: true, play: func(c *court) {
			s := c.follow("ben")
			c.away("ben", 2, 4)
			s.resume()
		}, want: counts{Lost: 1}, first: "lost 5"},
		"not yielded before a removal that hides it": {fromJoining: true, play: func(c *court) {
			s := c.follow("ben")
			c.send(2)
			c.away("ben", 3, 5)
			s.resume().get(c, 6)
		}},
		"back, between two seqs": {fromJoining: true, play: func(c *court) {
			s := c.follow("ben")
			c.removing(conv, "ben")
			c.removed(conv, "ben", span{2, 3})
			c.adding(conv, "ben")
			c.send(4)
			c.added(conv, "ben", span{4, 6})
			s.resume().get(c, 4)
		}},

		"leaked to a session that has ended": {play: func(c *court) {
			s := c.follow("ben")
			c.ended("sess_1", c.now)
			c.now = c.now.Add(grace + time.Millisecond)
			c.send(2)
			s.get(c, 2)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"a session that has just ended": {play: func(c *court) {
			s := c.follow("ben")
			c.ended("sess_1", c.now)
			c.now = c.now.Add(grace)
			c.send(2)
			c.now = c.now.Add(time.Minute) // the client is slow to read
			s.get(c, 2)
		}},

		"a member is refused": {play: func(c *court) {
			c.follow("ben").refused("FORBIDDEN")
		}, want: counts{OtherBreach: 1}, first: "refused 0"},
		"refused after a removal": {play: func(c *court) {
			s := c.follow("ben")
			c.away("ben", 2, 4)
			s.refused("FORBIDDEN")
			s.resume().get(c, 3, 5)
		}},
		"an answer with another content": {play: func(c *court) {
			c.begin(2)
			c.acknowledged(conv, message{ID: "msg_2", Seq: 2, Content: "content 3"}, "content 2", c.now)
		}, want: counts{OtherBreach: 1}, first: "altered 2"},
		"a seq below what was confirmed before": {play: func(c *court) {
			c.send(5)
			c.begin(3)
			c.answer(3)
		}, want: counts{Reordered: 1}, first: "reordered 3"},
		"repeated, and answered alike": {play: func(c *court) {
			c.send(2)
			c.acknowledged(conv, msg(2), msg(2).Content, c.now)
		}},
		"repeated, and stored twice": {play: func(c *court) {
			c.send(2)
			c.acknowledged(conv, message{ID: "msg_3", Seq: 3, Content: msg(2).Content}, msg(2).Content, c.now)
		}, want: counts{Doubled: 1}, first: "doubled 3"},
		"retried, and stored twice": {play: func(c *court) {
			c.send(2)
			c.stored = append(c.stored, message{ID: "msg_3", Seq: 3, Content: msg(2).Content})
		}, want: counts{Doubled: 1}, first: "doubled 3"},
		"a seq with two messages": {play: func(c *court) {
			c.begin(2, 3)
			c.answer(2)
			c.acknowledged(conv, message{ID: "msg_2", Seq: 2, Content: msg(3).Content}, msg(3).Content, c.now)
		}, want: counts{OtherBreach: 1, Reordered: 0}, first: "altered 2"},
		"a stream that alters": {play: func(c *court) {
			s := c.follow("ben")
			c.send(2, 3)
			s.get(c, 2)
			s.receive(item{event: arrival(message{ID: "msg_4", Seq: 3, Content: msg(3).Content})}, c.now)
		}, want: counts{OtherBreach: 1, Lost: 1}, first: "altered 3"},
		"a stream that invents": {play: func(c *court) {
			c.follow("ben").get(c, 7)
		}, want: counts{OtherBreach: 1}, first: "invented 7"},
		"an answered send is not listed": {play: func(c *court) {
			c.send(2, 3)
			c.stored = c.stored[1:]
		}, want: counts{Lost: 1}, first: "lost 2"},
		"a list that doubles": {play: func(c *court) {
			c.send(2)
			c.stored = append(c.stored, msg(2))
		}, want: counts{Doubled: 1}, first: "doubled 2"},
		"a send without an end": {play: func(c *court) {
			c.begin(2)
			c.gaveUp(conv, msg(2).Content, errUnknown)
		}, want: counts{OtherBreach: 1}, first: "refused 0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCourt(test.fromJoining)
			test.play(c)
			c.end()
			c.judge(t, test.want, test.first)
		})
	}
}

// away removes somebody at one seq, and adds them at another; a message is sent in between, and one
// after.
func (c *court) away(person string, removed, added int64) {
	c.removing(conv, person)
	c.removed(conv, person, at(removed))
	c.send(removed + 1)
	c.adding(conv, person)
	c.added(conv, person, at(added))
	c.send(added + 1)
}

func TestTheListIsInOrder(t *testing.T) {
	t.Parallel()
	c := newCourt(false)
	c.send(2, 3)
	c.listed(conv, []message{msg(3), msg(2)})
	if got, _ := c.result(); got.Reordered != 1 {
		t.Errorf("%+v", got)
	}
}

// Whatever becomes of a stream that keeps the law is right, and one thing wrong in it is found.
func TestAnythingWrongIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 40).Draw(t, "messages")
		var seqs []int64
		for seq := int64(1); len(seqs) < n; {
			seq += rapid.Int64Range(1, 3).Draw(t, "step") // other events have seqs too
			seqs = append(seqs, seq)
		}
		got := slices.Clone(seqs)
		i := rapid.IntRange(0, n-2).Draw(t, "where")
		wrong := rapid.SampledFrom([]string{"nothing", "lost", "doubled", "swapped", "again later"}).Draw(t, "wrong")
		switch wrong {
		case "lost":
			got = slices.Delete(got, i, i+1)
		case "doubled":
			got = slices.Insert(got, i, got[i])
		case "swapped":
			got[i], got[i+1] = got[i+1], got[i]
		case "again later":
			got = append(got, got[i])
		}
		c := newCourt(false)
		s := c.follow("ben")
		c.begin(seqs...)
		// the others are answered when all is delivered
		early := rapid.IntRange(0, n).Draw(t, "answered before")
		c.answer(seqs[:early]...)
		for _, seq := range got {
			if rapid.IntRange(0, 9).Draw(t, "resume") == 0 {
				s = s.resume()
			}
			s.get(c, seq)
		}
		c.answer(seqs[early:]...)
		c.end()
		found, first := c.result()
		if found.broken() != (wrong != "nothing") || found.broken() != (first != nil) {
			t.Fatalf("%s at %d of %v: found %+v, %v", wrong, i, seqs, found, first)
		}
		if first != nil && (len(first.steps) == 0 || first.expected == "" || first.came == "") {
			t.Fatalf("it is not told what was expected, what came, and what was before: %+v", first)
		}
	})
}

func TestAViolationIsToldExactly(t *testing.T) {
	t.Parallel()
	c := newCourt(false)
	s := c.follow("ben")
	c.send(2, 3, 4)
	s.note(c.now, "node 1: subscribes after seq %d", 0)
	s.get(c, 2, 4)
	c.send(5)
	s.get(c, 5) // which is none of its story
	_, first := c.result()
	var told strings.Builder
	newReport().tell(&told, first, c.now.Add(-time.Second))
	want := `
The first violation: lost
  conversation  conv_1
  seq           3
  stream        a stream of ben
  expected      seq 3, msg_3 "content 3" before it
  came          seq 4, msg_4 "content 4"
  the steps until then:
       1.000s  node 1: subscribes after seq 0
       1.000s  received 2 items, seq 2 to 4
`
	if diff := cmp.Diff(want, told.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
