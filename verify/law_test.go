package verify

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// moment is when the event of a seq happened.
func moment(seq int64) time.Time { return time.Unix(1_800_000_000+seq, 0).UTC() }

func happened(kind string, seq int64) event { return event{Kind: kind, Seq: seq, At: moment(seq)} }

func about(kind string, seq int64, of message, person, emoji string, count int) event {
	e := happened(kind, seq)
	e.Message, e.Emoji, e.Count = &of, emoji, count
	if person != "" {
		e.User = &named{person}
	}
	return e
}

func concerning(kind string, seq int64, person string) event {
	e := happened(kind, seq)
	e.User = &named{person}
	return e
}

// edited is a message as it is after its edit.
func edited(of, at int64) message {
	m := msg(of)
	m.Content, m.EditedAt = fmt.Sprint("edit ", at), new(moment(at))
	return m
}

func deleted(of, at int64) message {
	return message{ID: msg(of).ID, Seq: of, DeletedAt: new(moment(at))}
}

// lively are eight events of the conversation, with one of everything; all of it was done, and
// confirmed.
func (c *court) lively() []event {
	added := func(seq int64) event {
		c.send(seq)
		e := arrival(msg(seq))
		e.At = moment(seq)
		return e
	}
	list := []event{
		happened(conversationCreated, 1), added(2), added(3),
		about(messageEdited, 4, edited(2, 4), "", "", 0),
		about(reactionAdded, 5, msg(3), "ann", "👍", 1), about(reactionRemoved, 6, msg(3), "ann", "👍", 0),
		about(messageDeleted, 7, deleted(3, 7), "", "", 0), added(8),
	}
	for _, e := range list {
		c.do(e)
	}
	c.log = list
	return list
}

// do has a change of a message begin and be confirmed.
func (c *court) do(e event) {
	if e.Message != nil {
		d := deed{e.Kind, e.Message.ID, e.person(), e.Emoji}
		c.changing(conv, d, e.Message.Content, c.now)
		c.changed(conv, d, *e.Message, e.Message.Content)
	}
}

// voice is a stream of any kind.
type voice struct {
	c    *court
	of   source
	on   track
	h    hearing
	told int
}

func (c *court) listen(of source, person string) *voice {
	v := &voice{c: c, of: of}
	if of == ofEverything {
		all := c.everything("a stream of "+person, person)
		all.starting("cursor 0", map[string]int64{conv: 0, quiet: 0})
		v.on = all
	} else {
		v.on = c.stream("a stream of "+person, conv, person, of == ofConversation)
	}
	v.resume()
	return v
}

// resume is the same stream on another connection.
func (v *voice) resume() { v.h = v.on.subscribing("sess_1") }

// get has events come, where the stream is of such.
func (v *voice) get(list ...event) {
	for _, e := range list {
		v.getOf(conv, e)
	}
}

func (v *voice) getOf(conversation string, e event) {
	switch {
	case v.of == ofMessages && e.Kind != messageAdded:
		return
	case v.of == ofMessages:
		e.At = time.Time{}
	case v.of == ofEverything && e.Kind == caughtUp:
		e.Seq, conversation = 0, ""
	}
	v.told++
	v.h.receive(item{event: e, conversation: conversation, cursor: fmt.Sprint("cursor ", v.told)}, v.c.now)
}

func (v *voice) caughtUp(seq int64) { v.get(happened(caughtUp, seq)) }

// quiet is another conversation of ann and ben, where nothing has happened but its beginning.
const quiet = "conv_2"

// newBusyCourt has both conversations.
func newBusyCourt(fromJoining bool) *court {
	c := newCourt(fromJoining)
	c.opened(quiet, false, "ann", "ben")
	return c
}

func (c *court) verdict(t *testing.T) (breaches counts, first string) {
	t.Helper()
	got, found := c.result()
	breaches = counts{
		Lost: got.Lost, Doubled: got.Doubled, Reordered: got.Reordered, Leaked: got.Leaked, OtherBreach: got.OtherBreach,
	}
	if breaches.broken() != (found != nil) {
		t.Errorf("broken: %v, and the first is %v", breaches.broken(), found)
	}
	if found != nil {
		first = fmt.Sprint(found.what, " ", found.seq)
	}
	return breaches, first
}

func (c *court) judge(t *testing.T, want counts, first string) {
	t.Helper()
	breaches, found := c.verdict(t)
	if diff := cmp.Diff(want, breaches); diff != "" {
		t.Errorf("breaches (-want +got):\n%s", diff)
	}
	if found != first {
		t.Errorf("the first: %q, want %q", found, first)
	}
}

// What is wrong with a message is found whatever kind of stream it comes through.
func TestTheLawOfEachKind(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		play  func(c *court, v *voice, log []event)
		want  counts
		first string
	}{
		"kept": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:4]...)
			v.resume()
			v.get(log[4:]...)
			v.caughtUp(8)
		}},
		"lost": {play: func(_ *court, v *voice, log []event) {
			v.get(slices.Delete(slices.Clone(log), 2, 3)...)
			v.caughtUp(8)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost by a resume": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:2]...)
			v.resume()
			v.get(log[3:]...)
			v.caughtUp(8)
		}, want: counts{Lost: 1}, first: "lost 3"},
		"lost at the end": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:7]...)
			v.caughtUp(7)
		}, want: counts{Lost: 1}, first: "lost 8"},
		"doubled": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:3]...)
			v.get(log[2:]...)
			v.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 3"},
		"doubled by a resume": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.resume()
			v.get(log[7])
			v.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 8"},
		"reordered": {play: func(_ *court, v *voice, log []event) {
			v.get(log[0], log[2], log[1])
			v.get(log[3:]...)
			v.caughtUp(8)
		}, want: counts{Reordered: 1}, first: "lost 2"},
		"invented": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.get(arrival(msg(9)))
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 9"},
		"altered": {play: func(_ *court, v *voice, log []event) {
			other := msg(8)
			other.ID = "msg_9"
			v.get(log[:7]...)
			v.get(arrival(other))
			v.get(log[7])
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 8"},
		"leaked beyond the removal": {play: func(c *court, v *voice, log []event) {
			v.get(log...)
			v.caughtUp(8)
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(9))
			c.send(10)
			v.get(arrival(msg(10)))
			c.log = append(log, concerning(memberRemoved, 9, "ben"), arrival(msg(10)))
		}, want: counts{Leaked: 1}, first: "leaked 10"},
		"leaked to a subscription after the removal": {play: func(c *court, v *voice, log []event) {
			v.get(log[:7]...)
			v.caughtUp(7)
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(9))
			v.resume()
			v.get(log[7])
			v.caughtUp(7)
			c.log = append(log, concerning(memberRemoved, 9, "ben"))
		}, want: counts{Leaked: 1}, first: "leaked 8"},
		"leaked to a session that has ended": {play: func(c *court, v *voice, log []event) {
			v.get(log...)
			v.caughtUp(8)
			c.ended("sess_1", c.now)
			c.now = c.now.Add(grace + time.Millisecond)
			c.send(9)
			v.get(arrival(msg(9)))
			c.log = append(log, arrival(msg(9)))
		}, want: counts{Leaked: 1}, first: "leaked 9"},
	}
	for _, of := range []source{ofMessages, ofConversation, ofEverything} {
		for name, test := range tests {
			t.Run(string(of)+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := newBusyCourt(false)
				v := c.listen(of, "ben")
				test.play(c, v, c.lively())
				c.end()
				c.judge(t, test.want, test.first)
			})
		}
	}
}

func TestLeakedToAStranger(t *testing.T) {
	t.Parallel()
	for _, of := range []source{ofMessages, ofConversation, ofEverything} {
		c := newBusyCourt(false)
		log := c.lively()
		v := c.listen(of, "eve")
		v.get(log[1])
		c.end()
		c.judge(t, counts{Leaked: 1}, "leaked 2")
	}
}

// Streams of events have no gap at all, and say where replay ends.
func TestTheLawOfEvents(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		play  func(c *court, v *voice, log []event)
		want  counts
		first string
	}{
		"an edit is lost": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:3]...)
			v.get(log[4:]...)
			v.caughtUp(8)
		}, want: counts{Lost: 1}, first: "lost 4"},
		"a gap where nobody knows what there is": {play: func(c *court, v *voice, log []event) {
			v.get(log...)
			c.begin(9, 10)
			v.get(arrival(msg(10)))
			c.answer(9, 10)
			v.caughtUp(10)
			c.log = append(log, arrival(msg(9)), arrival(msg(10)))
		}, want: counts{Lost: 1}, first: "lost 9"},
		"a reaction is doubled": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:5]...)
			v.get(log[4:]...)
			v.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 5"},
		"a deletion that nobody has done": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.get(about(messageDeleted, 9, deleted(2, 9), "", "", 0))
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 9"},
		"a reaction that nobody has done": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.get(about(reactionAdded, 9, msg(8), "ben", "👍", 1))
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 9"},
		"a reaction is told twice, at two seqs": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.get(about(reactionAdded, 9, msg(3), "ann", "👍", 1))
			v.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 9"},
		"another emoji": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:4]...)
			v.get(about(reactionAdded, 5, msg(3), "ann", "🎉", 1))
			v.get(log[4:]...)
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "invented 5"},
		"another count than others were told": {play: func(c *court, v *voice, log []event) {
			ann := c.listen(ofConversation, "ann")
			ann.get(log...)
			ann.caughtUp(8)
			v.get(log[:4]...)
			v.get(about(reactionAdded, 5, msg(3), "ann", "👍", 2))
			v.get(log[4:]...)
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 5"},
		"an edit, with what was before it": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:3]...)
			v.get(about(messageEdited, 4, msg(2), "", "", 0))
			v.get(log[3:]...)
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 4"},
		"a message that was deleted, with its content": {play: func(_ *court, v *voice, log []event) {
			v.get(log[:6]...)
			v.get(about(messageDeleted, 7, msg(3), "", "", 0))
			v.get(log[6:]...)
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 7"},
		"an edit without its message, which is not hidden": {play: func(_ *court, v *voice, log []event) {
			bare := log[3]
			bare.Message = nil
			v.get(log[:3]...)
			v.get(bare)
			v.get(log[4:]...)
			v.caughtUp(8)
		}, want: counts{OtherBreach: 1}, first: "altered 4"},
		"replay does not end": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
		}, want: counts{Lost: 1}, first: "lost 8"},
		"replay ends twice": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.caughtUp(8)
			v.caughtUp(8)
		}, want: counts{Doubled: 1}, first: "doubled 8"},
		"replay ends too early": {play: func(_ *court, v *voice, log []event) {
			v.resume()
			v.caughtUp(0)
			v.get(log...)
		}, want: counts{OtherBreach: 1}, first: "too early 8"},
	}
	for _, of := range []source{ofConversation, ofEverything} {
		for name, test := range tests {
			t.Run(string(of)+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := newBusyCourt(false)
				v := c.listen(of, "ben")
				test.play(c, v, c.lively())
				c.end()
				first := test.first
				if of == ofEverything && first == "doubled 8" { // CaughtUp, which has no seq there
					first = "doubled 0"
				}
				c.judge(t, test.want, first)
			})
		}
	}
}

// What was confirmed is told, once, with the time of the answer.
func TestTheLawOfTheLog(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		play  func(c *court, log []event)
		want  counts
		first string
	}{
		"kept": {play: func(*court, []event) {}},
		"a confirmed reaction is not there": {play: func(c *court, _ []event) {
			c.do(about(reactionAdded, 9, msg(8), "ben", "👍", 1))
		}, want: counts{Lost: 1}, first: "lost 0"},
		"a confirmed edit is there with another time": {play: func(_ *court, log []event) {
			log[3].At = moment(3)
		}, want: counts{OtherBreach: 1}, first: "altered 0"},
		"the beginning is not there": {play: func(c *court, log []event) {
			c.log = log[1:]
		}, want: counts{Lost: 2}, first: "lost 2"},
		"the end is not there": {play: func(c *court, log []event) {
			c.log = log[:7]
		}, want: counts{Lost: 1}, first: "lost 8"},
		"a wrong count": {play: func(_ *court, log []event) {
			log[4].Count = 2
		}, want: counts{OtherBreach: 1}, first: "altered 5"},
		"out of order": {play: func(_ *court, log []event) {
			log[4], log[5] = log[5], log[4]
		}, want: counts{Lost: 2, Reordered: 1, OtherBreach: 1}, first: "lost 6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newBusyCourt(false)
			test.play(c, c.lively())
			c.end()
			c.judge(t, test.want, test.first)
		})
	}
}

// Whatever becomes of a stream of events that keeps the law is right, and one thing wrong in it is
// found.
func TestAnythingWrongWithEventsIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := newBusyCourt(false)
		c.log = []event{happened(conversationCreated, 1)}
		for seq := int64(2); seq <= int64(rapid.IntRange(4, 30).Draw(t, "events")); seq++ {
			e := arrival(msg(seq))
			switch newest := int64(len(c.byKind(messageAdded))); {
			case newest == 0 || rapid.Bool().Draw(t, "a message"):
				c.begin(seq)
				c.answer(seq)
			default:
				of := rapid.SampledFrom(c.byKind(messageAdded)).Draw(t, "of").Seq
				e = about(reactionAdded, seq, msg(of), fmt.Sprint("person ", seq), "👍", 1+c.reactions(of))
				c.do(e)
			}
			c.log = append(c.log, e)
		}
		got := slices.Clone(c.log)
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
		v := c.listen(rapid.SampledFrom([]source{ofConversation, ofEverything}).Draw(t, "kind"), "ben")
		for _, e := range got {
			if rapid.IntRange(0, 9).Draw(t, "resume") == 0 {
				v.resume()
			}
			v.get(e)
		}
		v.caughtUp(c.log[len(c.log)-1].Seq)
		c.end()
		found, first := c.result()
		if found.broken() != (wrong != "nothing") || found.broken() != (first != nil) {
			t.Fatalf("%s at %d of %v: found %+v, %v", wrong, i, c.log, found, first)
		}
	})
}

func (c *court) byKind(kind string) (found []event) {
	for _, e := range c.log {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// reactions counts those to a message so far.
func (c *court) reactions(of int64) (n int) {
	for _, e := range c.byKind(reactionAdded) {
		if e.Message.Seq == of {
			n++
		}
	}
	return n
}
