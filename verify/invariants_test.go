package verify

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// moment returns the time of the event of a seq.
func moment(seq int64) time.Time { return time.Unix(1_800_000_000+seq, 0).UTC() }

func happened(kind string, seq int64) event { return event{Kind: kind, Seq: seq, At: moment(seq)} }

func about(kind string, seq int64, of message, person, emoji string, count int) event {
	e := happened(kind, seq)
	e.Message, e.Emoji, e.Count = &of, emoji, count
	if person != "" {
		e.User = &user{person}
	}
	return e
}

func concerning(kind string, seq int64, person string) event {
	e := happened(kind, seq)
	e.User = &user{person}
	return e
}

// edited returns the message of a seq after its edit at another.
func edited(of, at int64) message {
	m := msg(of)
	m.Content, m.EditedAt = fmt.Sprint("edit ", at), new(moment(at))
	return m
}

func deleted(of, at int64) message {
	return message{ID: msg(of).ID, Seq: of, DeletedAt: new(moment(at))}
}

// confirmAll returns eight events of the conversation, one of each kind. All were begun and
// confirmed.
func (f *fixture) confirmAll() []event {
	added := func(seq int64) event {
		f.send(seq)
		e := arrival(msg(seq))
		e.At = moment(seq)
		return e
	}
	list := []event{
		happened(conversationCreated, 1), added(2), added(3),
		about(messageEdited, 4, edited(2, 4), "", "", 0),
		about(reactionAdded, 5, msg(3), "ann", "👍", 1),
		about(reactionRemoved, 6, msg(3), "ann", "👍", 0),
		about(messageDeleted, 7, deleted(3, 7), "", "", 0), added(8),
	}
	for _, e := range list {
		f.do(e)
	}
	f.log = list
	return list
}

// do records a change of a message, begun and confirmed.
func (f *fixture) do(e event) {
	if e.Message != nil {
		d := action{e.Kind, e.Message.ID, e.person(), e.Emoji}
		f.changing(conv, d, e.Message.Content, f.now)
		f.changed(conv, d, *e.Message, e.Message.Content, f.now)
	}
}

// testStream is a stream of any kind.
type testStream struct {
	f           *fixture
	of          source
	recorder    recorder
	observation observation
	items       int
}

func (f *fixture) listen(of source, person string) *testStream {
	s := &testStream{f: f, of: of}
	if of == ofEverything {
		all := f.everything("a stream of "+person, person)
		all.starting("cursor 0", map[string]int64{conv: 0, quiet: 0})
		s.recorder = all
	} else {
		s.recorder = f.stream("a stream of "+person, conv, person, of == ofConversation)
	}
	s.resume()
	return s
}

// resume continues the stream on another connection.
func (s *testStream) resume() { s.observation = s.recorder.subscribing("sess_1") }

// get delivers those of the events that the kind of stream delivers.
func (s *testStream) get(list ...event) {
	for _, e := range list {
		s.getOf(conv, e)
	}
}

func (s *testStream) getOf(conversation string, e event) {
	switch {
	case s.of == ofMessages && e.Kind != messageAdded:
		return
	case s.of == ofMessages:
		e.At = time.Time{}
	case s.of == ofEverything && e.Kind == caughtUp:
		e.Seq, conversation = 0, ""
	}
	s.items++
	s.observation.receive(item{
		event: e, conversation: conversation,
		cursor: fmt.Sprint("cursor ", s.items),
	}, s.f.now)
}

func (s *testStream) caughtUp(seq int64) { s.get(happened(caughtUp, seq)) }

// quiet is another conversation of ann and ben, without messages.
const quiet = "conv_2"

// newFixtureWithQuiet returns a fixture with both conversations.
func newFixtureWithQuiet(fromJoining bool) *fixture {
	f := newFixture(fromJoining)
	f.created(quiet, false, "ann", "ben")
	return f
}

func (f *fixture) verdict(t *testing.T) (breaches counts, first string) {
	t.Helper()
	got, found := f.result()
	breaches = counts{
		Lost: got.Lost, Doubled: got.Doubled, Reordered: got.Reordered, Leaked: got.Leaked,
		OtherBreach: got.OtherBreach,
	}
	if breaches.broken() != (found != nil) {
		t.Errorf("broken: %v, and the first is %v", breaches.broken(), found)
	}
	if found != nil {
		first = fmt.Sprint(found.kind, " ", found.seq)
	}
	return breaches, first
}

func (f *fixture) want(t *testing.T, want counts, first string) {
	t.Helper()
	breaches, found := f.verdict(t)
	if diff := cmp.Diff(want, breaches); diff != "" {
		t.Errorf("breaches (-want +got):\n%s", diff)
	}
	if found != first {
		t.Errorf("the first: %q, want %q", found, first)
	}
}

func TestInvariantsOfEachKindOfStream(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		play  func(f *fixture, s *testStream, log []event)
		want  counts
		first string
	}{
		"kept": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:4]...)
			s.resume()
			s.get(log[4:]...)
			s.caughtUp(8)
		}},
		"lost": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(slices.Delete(slices.Clone(log), 2, 3)...)
			s.caughtUp(8)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost by a resume": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:2]...)
			s.resume()
			s.get(log[3:]...)
			s.caughtUp(8)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost at the end": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:7]...)
			s.caughtUp(7)
		}, want: counts{Lost: 1}, first: "lost 8"},
		"doubled": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:3]...)
			s.get(log[2:]...)
			s.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 3"},
		"doubled by a resume": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
			s.resume()
			s.get(log[7])
			s.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 8"},
		"reordered": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[0], log[2], log[1])
			s.get(log[3:]...)
			s.caughtUp(8)
		}, want: counts{Reordered: 1}, first: "lost 2"},
		"invented": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
			s.get(arrival(msg(9)))
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 9"},
		"altered": {play: func(_ *fixture, s *testStream, log []event) {
			other := msg(8)
			other.ID = "msg_9"
			s.get(log[:7]...)
			s.get(arrival(other))
			s.get(log[7])
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 8"},
		"leaked after the removal": {play: func(f *fixture, s *testStream, log []event) {
			s.get(log...)
			s.caughtUp(8)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(9), f.now)
			f.send(10)
			s.get(arrival(msg(10)))
			f.log = append(log, concerning(memberRemoved, 9, "ben"), arrival(msg(10)))
		}, want: counts{Leaked: 1}, first: "leaked 10"},
		"leaked to a subscription after the removal": {play: func(f *fixture, s *testStream,
			log []event,
		) {
			s.get(log[:7]...)
			s.caughtUp(7)
			f.removing(conv, "ben")
			f.removed(conv, "ben", at(9), f.now)
			s.resume()
			s.get(log[7])
			s.caughtUp(7)
			f.log = append(log, concerning(memberRemoved, 9, "ben"))
		}, want: counts{Leaked: 1}, first: "leaked 8"},
		"leaked to a session that has ended": {play: func(f *fixture, s *testStream, log []event) {
			s.get(log...)
			s.caughtUp(8)
			f.ended("sess_1", f.now)
			f.now = f.now.Add(grace + time.Millisecond)
			f.send(9)
			s.get(arrival(msg(9)))
			f.log = append(log, arrival(msg(9)))
		}, want: counts{Leaked: 1}, first: "leaked 9"},
	}
	for _, of := range []source{ofMessages, ofConversation, ofEverything} {
		for name, test := range tests {
			t.Run(string(of)+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := newFixtureWithQuiet(false)
				s := f.listen(of, "ben")
				test.play(f, s, f.confirmAll())
				f.end()
				f.want(t, test.want, test.first)
			})
		}
	}
}

func TestLeakedToANonMember(t *testing.T) {
	t.Parallel()
	for _, of := range []source{ofMessages, ofConversation, ofEverything} {
		f := newFixtureWithQuiet(false)
		log := f.confirmAll()
		s := f.listen(of, "eve")
		s.get(log[1])
		f.end()
		f.want(t, counts{Leaked: 1}, "leaked 2")
	}
}

// Streams of events have no gap, and report the end of replay.
func TestInvariantsOfEvents(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		play  func(f *fixture, s *testStream, log []event)
		want  counts
		first string
	}{
		"an edit is lost": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:3]...)
			s.get(log[4:]...)
			s.caughtUp(8)
		}, want: counts{Lost: 1}, first: "lost 4"},
		"a gap of an unconfirmed event": {play: func(f *fixture, s *testStream, log []event) {
			s.get(log...)
			f.begin(9, 10)
			s.get(arrival(msg(10)))
			f.answer(9, 10)
			s.caughtUp(10)
			f.log = append(log, arrival(msg(9)), arrival(msg(10)))
		}, want: counts{Lost: 1}, first: "lost 9"},
		"a reaction is doubled": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:5]...)
			s.get(log[4:]...)
			s.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 5"},
		"a deletion that no client caused": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
			s.get(about(messageDeleted, 9, deleted(2, 9), "", "", 0))
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 9"},
		"a reaction that no client caused": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
			s.get(about(reactionAdded, 9, msg(8), "ben", "👍", 1))
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 9"},
		"a reaction is delivered twice, with two seqs": {play: func(_ *fixture, s *testStream,
			log []event,
		) {
			s.get(log...)
			s.get(about(reactionAdded, 9, msg(3), "ann", "👍", 1))
			s.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 9"},
		"another emoji": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:4]...)
			s.get(about(reactionAdded, 5, msg(3), "ann", "🎉", 1))
			s.get(log[4:]...)
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 5"},
		"another count than another stream delivered": {play: func(f *fixture, s *testStream,
			log []event,
		) {
			ann := f.listen(ofConversation, "ann")
			ann.get(log...)
			ann.caughtUp(8)
			s.get(log[:4]...)
			s.get(about(reactionAdded, 5, msg(3), "ann", "👍", 2))
			s.get(log[4:]...)
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 5"},
		"an edit, with the content before it": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:3]...)
			s.get(about(messageEdited, 4, msg(2), "", "", 0))
			s.get(log[3:]...)
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 4"},
		"a deleted message, with its content": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log[:6]...)
			s.get(about(messageDeleted, 7, msg(3), "", "", 0))
			s.get(log[6:]...)
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 7"},
		"an edit without its message, which is visible": {play: func(_ *fixture, s *testStream,
			log []event,
		) {
			bare := log[3]
			bare.Message = nil
			s.get(log[:3]...)
			s.get(bare)
			s.get(log[4:]...)
			s.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 4"},
		"replay does not end": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
		}, want: counts{Lost: 1}, first: "lost 8"},
		"replay ends twice": {play: func(_ *fixture, s *testStream, log []event) {
			s.get(log...)
			s.caughtUp(8)
			s.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 8"},
		"replay ends too early": {play: func(_ *fixture, s *testStream, log []event) {
			s.resume()
			s.caughtUp(0)
			s.get(log...)
		}, want: counts{OtherBreach: 1}, first: "too early 8"},
	}
	for _, of := range []source{ofConversation, ofEverything} {
		for name, test := range tests {
			t.Run(string(of)+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := newFixtureWithQuiet(false)
				s := f.listen(of, "ben")
				test.play(f, s, f.confirmAll())
				f.end()
				first := test.first
				if of == ofEverything && first == "doubled 8" { // CaughtUp, which has no seq in it
					first = "doubled 0"
				}
				f.want(t, test.want, first)
			})
		}
	}
}

// The log has each confirmed event once, with the time of the answer.
func TestInvariantsOfTheLog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		play  func(f *fixture, log []event)
		want  counts
		first string
	}{
		"kept": {play: func(*fixture, []event) {}},
		"a confirmed reaction is missing": {play: func(f *fixture, _ []event) {
			f.do(about(reactionAdded, 9, msg(8), "ben", "👍", 1))
		}, want: counts{Lost: 1}, first: "lost 0"},
		"a confirmed edit has another time": {play: func(_ *fixture, log []event) {
			log[3].At = moment(3)
		}, want: counts{OtherBreach: 1}, first: "altered 0"},
		"the beginning is missing": {play: func(f *fixture, log []event) {
			f.log = log[1:]
		}, want: counts{Lost: 2}, first: "lost 2"},
		"the end is missing": {play: func(f *fixture, log []event) {
			f.log = log[:7]
		}, want: counts{Lost: 1}, first: "lost 8"},
		"a wrong count": {play: func(_ *fixture, log []event) {
			log[4].Count = 2
		}, want: counts{OtherBreach: 1}, first: "altered 5"},
		"out of order": {play: func(_ *fixture, log []event) {
			log[4], log[5] = log[5], log[4]
		}, want: counts{Lost: 2, Reordered: 1, OtherBreach: 1}, first: "lost 6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixtureWithQuiet(false)
			test.play(f, f.confirmAll())
			f.end()
			f.want(t, test.want, test.first)
		})
	}
}

// A random stream of events without a fault violates nothing, and a stream with one fault does.
func TestAnyFaultInEventsIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFixtureWithQuiet(false)
		f.log = []event{happened(conversationCreated, 1)}
		for seq := int64(2); seq <= int64(rapid.IntRange(4, 30).Draw(t, "events")); seq++ {
			e := arrival(msg(seq))
			switch newest := int64(len(f.byKind(messageAdded))); {
			case newest == 0 || rapid.Bool().Draw(t, "a message"):
				f.begin(seq)
				f.answer(seq)
			default:
				of := rapid.SampledFrom(f.byKind(messageAdded)).Draw(t, "of").Seq
				e = about(reactionAdded, seq, msg(of), fmt.Sprint("person ", seq), "👍",
					1+f.reactions(of))
				f.do(e)
			}
			f.log = append(f.log, e)
		}
		got := slices.Clone(f.log)
		i := rapid.IntRange(0, len(got)-2).Draw(t, "where")
		wrong := rapid.SampledFrom([]string{
			"nothing", "lost", "lost at the end", "doubled", "swapped", "again later",
		}).Draw(t, "wrong")
		switch wrong {
		case "lost":
			got = slices.Delete(got, i, i+1)
		case "lost at the end":
			got = got[:len(got)-1]
		case "doubled":
			got = slices.Insert(got, i, got[i])
		case "swapped":
			got[i], got[i+1] = got[i+1], got[i]
		case "again later":
			got = append(got, got[i])
		}
		s := f.listen(rapid.SampledFrom([]source{ofConversation, ofEverything}).Draw(t, "kind"),
			"ben")
		for _, e := range got {
			if rapid.IntRange(0, 9).Draw(t, "resume") == 0 {
				s.resume()
			}
			s.get(e)
		}
		s.caughtUp(f.log[len(f.log)-1].Seq)
		f.end()
		found, first := f.result()
		if found.broken() != (wrong != "nothing") || found.broken() != (first != nil) {
			t.Fatalf("%s at %d of %v: found %+v, %v", wrong, i, f.log, found, first)
		}
	})
}

func (f *fixture) byKind(kind string) (found []event) {
	for _, e := range f.log {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// reactions returns the number of reactions to a message.
func (f *fixture) reactions(of int64) (n int) {
	for _, e := range f.byKind(reactionAdded) {
		if e.Message.Seq == of {
			n++
		}
	}
	return n
}
