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

// fixture is a history with one conversation of ann and ben, where ann writes. Tests name messages
// by their seqs.
type fixture struct {
	*history
	now    time.Time
	stored []message
	log    []event // what the owner receives at the end; nil if the owner does not follow
}

const (
	conv  = "conv_1"
	grace = 5 * time.Second
)

func newFixture(fromJoining bool) *fixture {
	f := &fixture{history: newHistory(grace), now: time.Unix(1_800_000_000, 0)}
	f.created(conv, fromJoining, "ann", "ben")
	return f
}

func msg(seq int64) message {
	return message{ID: fmt.Sprint("msg_", seq), Seq: seq, Content: fmt.Sprint("content ", seq)}
}

// begin records sends that are not answered yet.
func (f *fixture) begin(seqs ...int64) {
	for _, seq := range seqs {
		f.sending(conv, msg(seq).Content, f.now)
	}
}

// answer records the answers to sends.
func (f *fixture) answer(seqs ...int64) {
	for _, seq := range seqs {
		f.acknowledged(conv, msg(seq), msg(seq).Content, f.now)
		f.stored = append(f.stored, msg(seq))
	}
}

func (f *fixture) send(seqs ...int64) {
	for _, seq := range seqs {
		f.begin(seq)
		f.answer(seq)
	}
}

func (f *fixture) follow(person string) *subscription {
	return f.stream("a stream of "+person, conv, person, false).subscribe("sess_1")
}

func (s *subscription) get(f *fixture, seqs ...int64) {
	for _, seq := range seqs {
		s.receive(item{event: arrival(msg(seq))}, f.now)
	}
}

// resume returns the same stream on another connection.
func (s *subscription) resume() *subscription { return s.subscribe("sess_1") }

// end checks the stored messages, the log and the streams.
func (f *fixture) end() {
	slices.SortFunc(f.stored, func(a, b message) int { return int(a.Seq - b.Seq) })
	f.checkList(conv, f.stored)
	if f.log != nil {
		f.checkLog(conv, f.log)
	}
	f.checkComplete()
}

func at(seq int64) span { return span{seq, seq} }

func TestInvariants(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fromJoining bool
		play        func(f *fixture)
		want        counts // of violations only
		first       string // kind and seq of the first violation
	}{
		"kept": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3, 5)
			s.get(f, 2, 3)
			s = s.resume()
			s.get(f, 5)
		}},
		"delivered before it is answered": {play: func(f *fixture) {
			s := f.follow("ben")
			f.begin(2)
			s.get(f, 2)
			f.answer(2)
		}},
		"lost in the middle": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3, 4)
			s.get(f, 2, 4)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost in the middle, and answered later": {play: func(f *fixture) {
			s := f.follow("ben")
			f.begin(2, 3)
			s.get(f, 3)
			f.answer(2, 3)
		}, want: counts{Lost: 1, Reordered: 0}, first: "lost 2"},
		"lost in the middle, and delivered to another stream": {play: func(f *fixture) {
			f.begin(2, 3)
			f.follow("ann").get(f, 2, 3)
			f.follow("ben").get(f, 3)
			f.answer(2, 3)
		}, want: counts{Lost: 1}, first: "lost 2"},
		"lost at the end": {play: func(f *fixture) {
			f.send(2, 3)
			f.follow("ben").get(f, 2)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost by a resume": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3, 4)
			s.get(f, 2)
			s.resume().get(f, 4)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"everything lost": {play: func(f *fixture) {
			f.follow("ben")
			f.send(2, 3)
		}, want: counts{Lost: 2}, first: "lost 2"},
		"doubled": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3)
			s.get(f, 2, 2, 3)
		}, want: counts{Doubled: 1}, first: "doubled 2"},
		"doubled by a resume": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3)
			s.get(f, 2, 3)
			s.resume().get(f, 2, 3)
		}, want: counts{Doubled: 2}, first: "doubled 2"},
		"reordered": {play: func(f *fixture) {
			s := f.follow("ben")
			f.begin(2, 3)
			s.get(f, 3, 2)
			f.answer(2, 3)
		}, want: counts{Reordered: 1}, first: "reordered 2"},
		"reordered, and missed at first": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3)
			s.get(f, 3, 2)
		}, want: counts{Reordered: 1}, first: "lost 2"},

		"leaked to a non-member": {play: func(f *fixture) {
			f.send(2)
			f.follow("eve").get(f, 2)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"leaked after the removal": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(3), f.now)
			f.send(4)
			s.get(f, 2, 4)
		}, want: counts{Leaked: 1}, first: "leaked 4"},
		"in flight when the removal was confirmed": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(3), f.now)
			s.get(f, 2)
		}},
		"leaked together with a visible message": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(3), f.now)
			f.send(4)
			s.receive(item{event: arrival(msg(2)), newest: 4}, f.now)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"with a visible message, the last one before the removal": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3)
			f.removing(conv, "ben")
			s.receive(item{event: arrival(msg(2)), newest: 3}, f.now)
			f.removed(conv, "ben", at(4), f.now)
			s.receive(item{event: arrival(msg(3)), newest: 3}, f.now)
		}},
		"leaked to a subscription after the removal": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(3), f.now)
			s.resume().get(f, 2)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"the removal is not confirmed yet": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			f.removing(conv, "ben")
			f.send(4)
			s.get(f, 2, 4)
		}},
		"added again, with history from the start": {play: func(f *fixture) {
			s := f.follow("ben")
			f.removeAndAdd("ben", 2, 4)
			s.resume().get(f, 3, 5)
		}},
		"added again, and a message in between is lost": {play: func(f *fixture) {
			s := f.follow("ben")
			f.removeAndAdd("ben", 2, 4)
			s.resume().get(f, 5)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"added again, with history from joining": {fromJoining: true, play: func(f *fixture) {
			s := f.follow("ben")
			f.removeAndAdd("ben", 2, 4)
			s.resume().get(f, 5)
		}},
		"added again, and shown a hidden message": {fromJoining: true, play: func(f *fixture) {
			s := f.follow("ben")
			f.removeAndAdd("ben", 2, 4)
			s.resume().get(f, 3, 5)
		}, want: counts{Leaked: 1}, first: "leaked 3"},
		"added again, and a message after that is lost": {
			fromJoining: true,
			play: func(f *fixture) {
				s := f.follow("ben")
				f.removeAndAdd("ben", 2, 4)
				s.resume()
			}, want: counts{Lost: 1}, first: "lost 5",
		},
		"not delivered before a removal that hides it": {fromJoining: true, play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2)
			f.removeAndAdd("ben", 3, 5)
			s.resume().get(f, 6)
		}},
		"added again, between two seqs": {fromJoining: true, play: func(f *fixture) {
			s := f.follow("ben")
			f.removing(conv, "ben")
			f.removed(conv, "ben", span{2, 3}, f.now)
			f.adding(conv, "ben")
			f.send(4)
			f.added(conv, "ben", span{4, 6}, f.now)
			s.resume().get(f, 4)
		}},

		"leaked to a session that has ended": {play: func(f *fixture) {
			s := f.follow("ben")
			f.ended("sess_1", f.now)
			f.now = f.now.Add(grace + time.Millisecond)
			f.send(2)
			s.get(f, 2)
		}, want: counts{Leaked: 1}, first: "leaked 2"},
		"a session that has just ended": {play: func(f *fixture) {
			s := f.follow("ben")
			f.ended("sess_1", f.now)
			f.now = f.now.Add(grace)
			f.send(2)
			f.now = f.now.Add(time.Minute) // the client is slow to read
			s.get(f, 2)
		}},

		"a member is refused": {play: func(f *fixture) {
			f.follow("ben").refused("FORBIDDEN")
		}, want: counts{OtherBreach: 1}, first: "refused 0"},
		"refused after a removal": {play: func(f *fixture) {
			s := f.follow("ben")
			f.removeAndAdd("ben", 2, 4)
			s.refused("FORBIDDEN")
			s.resume().get(f, 3, 5)
		}},
		"an answer with another content": {play: func(f *fixture) {
			f.begin(2)
			f.acknowledged(conv, message{ID: "msg_2", Seq: 2, Content: "content 3"}, "content 2",
				f.now)
		}, want: counts{OtherBreach: 1}, first: "altered 2"},
		"a seq below what was confirmed before": {play: func(f *fixture) {
			f.send(5)
			f.begin(3)
			f.answer(3)
		}, want: counts{Reordered: 1}, first: "reordered 3"},
		"repeated, with the same answer": {play: func(f *fixture) {
			f.send(2)
			f.acknowledged(conv, msg(2), msg(2).Content, f.now)
		}},
		"repeated, and stored twice": {play: func(f *fixture) {
			f.send(2)
			f.acknowledged(conv, message{ID: "msg_3", Seq: 3, Content: msg(2).Content},
				msg(2).Content, f.now)
		}, want: counts{Doubled: 1}, first: "doubled 3"},
		"retried, and stored twice": {play: func(f *fixture) {
			f.send(2)
			f.stored = append(f.stored, message{ID: "msg_3", Seq: 3, Content: msg(2).Content})
		}, want: counts{Doubled: 1}, first: "doubled 3"},
		"a seq with two messages": {play: func(f *fixture) {
			f.begin(2, 3)
			f.answer(2)
			f.acknowledged(conv, message{ID: "msg_2", Seq: 2, Content: msg(3).Content},
				msg(3).Content, f.now)
		}, want: counts{OtherBreach: 1, Reordered: 0}, first: "altered 2"},
		"a stream with another id": {play: func(f *fixture) {
			s := f.follow("ben")
			f.send(2, 3)
			s.get(f, 2)
			s.receive(item{event: arrival(message{ID: "msg_4", Seq: 3, Content: msg(3).Content})},
				f.now)
		}, want: counts{OtherBreach: 1, Lost: 1}, first: "altered 3"},
		"a stream with a message that was not sent": {play: func(f *fixture) {
			f.follow("ben").get(f, 7)
		}, want: counts{OtherBreach: 1}, first: "invented 7"},
		"an answered send is not listed": {play: func(f *fixture) {
			f.send(2, 3)
			f.stored = f.stored[1:]
		}, want: counts{Lost: 1}, first: "lost 2"},
		"a list with a message twice": {play: func(f *fixture) {
			f.send(2)
			f.stored = append(f.stored, msg(2))
		}, want: counts{Doubled: 1}, first: "doubled 2"},
		"a send without an outcome": {play: func(f *fixture) {
			f.begin(2)
			f.failed(conv, msg(2).Content, errUnknown)
		}, want: counts{OtherBreach: 1}, first: "refused 0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(test.fromJoining)
			test.play(f)
			f.end()
			f.want(t, test.want, test.first)
		})
	}
}

// removeAndAdd removes a member at one seq, and adds them again at another. ann sends one message
// in between, and one after.
func (f *fixture) removeAndAdd(person string, removed, added int64) {
	f.removing(conv, person)
	f.removed(conv, person, at(removed), f.now)
	f.send(removed + 1)
	f.adding(conv, person)
	f.added(conv, person, at(added), f.now)
	f.send(added + 1)
}

func TestAListOutOfOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(false)
	f.send(2, 3)
	f.checkList(conv, []message{msg(3), msg(2)})
	if got, _ := f.result(); got.Reordered != 1 {
		t.Errorf("%+v", got)
	}
}

// A random stream without a fault violates nothing, and a stream with one fault does.
func TestAnyFaultIsFound(t *testing.T) {
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
		wrong := rapid.SampledFrom([]string{
			"nothing", "lost", "doubled", "swapped",
			"again later",
		}).Draw(t, "wrong")
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
		f := newFixture(false)
		s := f.follow("ben")
		f.begin(seqs...)
		// the others are answered after all deliveries
		early := rapid.IntRange(0, n).Draw(t, "answered before")
		f.answer(seqs[:early]...)
		for _, seq := range got {
			if rapid.IntRange(0, 9).Draw(t, "resume") == 0 {
				s = s.resume()
			}
			s.get(f, seq)
		}
		f.answer(seqs[early:]...)
		f.end()
		found, first := f.result()
		if found.broken() != (wrong != "nothing") || found.broken() != (first != nil) {
			t.Fatalf("%s at %d of %v: found %+v, %v", wrong, i, seqs, found, first)
		}
		if first != nil && (len(first.steps) == 0 || first.expected == "" || first.came == "") {
			t.Fatalf(
				"the violation lacks what was expected, what came, or the steps before it: %+v",
				first)
		}
	})
}

func TestPrintedViolation(t *testing.T) {
	t.Parallel()
	f := newFixture(false)
	s := f.follow("ben")
	f.send(2, 3, 4)
	s.note(f.now, "node 1: subscribes after seq %d", 0)
	s.get(f, 2, 4)
	f.send(5)
	s.get(f, 5) // after the violation, so not printed
	_, first := f.result()
	var printed strings.Builder
	newReport().printViolation(&printed, first, f.now.Add(-time.Second))
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
	if diff := cmp.Diff(want, printed.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
