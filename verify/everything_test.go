package verify

import "testing"

// gone removes ben at one seq, and adds him again at another; one message is sent in between, and
// one after.
func (c *court) gone(removed, added int64) {
	c.away("ben", removed, added)
	c.log = append(c.log, concerning(memberRemoved, removed, "ben"), arrival(msg(removed+1)),
		concerning(memberAdded, added, "ben"), arrival(msg(added+1)))
}

// Who is removed and comes back.
func TestTheLawOfComingBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		of          source
		fromJoining bool
		play        func(c *court, v *voice)
		want        counts
		first       string
	}{
		"all of it, where history is seen from the start": {of: ofConversation, play: func(c *court, v *voice) {
			v.get(c.log[8])
			v.resume()
			v.get(c.log[9:]...)
			v.caughtUp(12)
		}},
		"left out is what was not told before the removal": {of: ofConversation, play: func(c *court, v *voice) {
			c.do(about(reactionAdded, 13, msg(8), "ann", "👍", 1))
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(14))
			c.adding(conv, "ben")
			c.added(conv, "ben", at(15))
			c.log = append(c.log, about(reactionAdded, 13, msg(8), "ann", "👍", 1), concerning(memberRemoved, 14, "ben"),
				concerning(memberAdded, 15, "ben"))
			v.get(c.log[8:12]...)
			v.get(c.log[13])
			v.resume()
			v.get(c.log[12:]...) // from before what was left out
			v.caughtUp(15)
		}},
		"something comes behind the end": {of: ofConversation, play: func(c *court, v *voice) {
			v.get(c.log[10])
			c.removing(conv, "ben")
			c.removed(conv, "ben", at(14))
			c.log = append(c.log, about(reactionAdded, 13, msg(8), "ann", "👍", 1), concerning(memberRemoved, 14, "ben"))
			c.do(c.log[12])
			v.get(c.log[13], c.log[8])
		}, want: counts{Lost: 2, Leaked: 1}, first: "lost 9"},
		"what was hidden is not told": {of: ofConversation, fromJoining: true, play: func(c *court, v *voice) {
			v.get(c.log[8])
			v.resume()
			v.get(c.log[10:]...)
			v.caughtUp(12)
		}},
		"the joining itself is lost": {of: ofConversation, fromJoining: true, play: func(c *court, v *voice) {
			v.get(c.log[8])
			v.resume()
			v.get(c.log[11])
			v.caughtUp(12)
		}, want: counts{Lost: 1}, first: "lost 11"},
		"a message is hidden that was before": {of: ofConversation, fromJoining: true, play: func(c *court, v *voice) {
			e := about(reactionAdded, 13, msg(8), "ann", "👍", 1)
			c.do(e)
			c.log = append(c.log, e)
			e.Message = nil
			v.get(c.log[8])
			v.resume()
			v.get(c.log[10], c.log[11], e)
			v.caughtUp(13)
		}},
		"a message leaks that is to be hidden": {of: ofConversation, fromJoining: true, play: func(c *court, v *voice) {
			e := about(reactionAdded, 13, msg(8), "ann", "👍", 1)
			c.do(e)
			c.log = append(c.log, e)
			v.resume()
			v.get(c.log[10:]...)
			v.caughtUp(12)
		}, want: counts{Leaked: 1, Lost: 1}, first: "leaked 13"},

		"left, and joined": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], happened(conversationLeft, 0), happened(conversationJoined, 0), c.log[11])
		}},
		"joined, without a word of having left": {of: ofEverything, play: func(c *court, v *voice) {
			v.resume()
			v.get(happened(conversationJoined, 0), c.log[11])
			v.caughtUp(12)
		}},
		"not joined": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], happened(conversationLeft, 0))
		}, want: counts{Lost: 2}, first: "lost 12"},
		"not joined, and told all the same": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], happened(conversationLeft, 0), c.log[11])
		}, want: counts{Leaked: 1, Lost: 2}, first: "leaked 12"},
		"told between the removal and its end": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], c.log[9], happened(conversationLeft, 0), happened(conversationJoined, 0), c.log[11])
		}, want: counts{Leaked: 1}, first: "leaked 10"},
		"joined twice": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], happened(conversationLeft, 0), happened(conversationJoined, 0), happened(conversationJoined, 0), c.log[11])
		}, want: counts{Doubled: 1}, first: "doubled 9"},
		"left twice": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], happened(conversationLeft, 0), happened(conversationLeft, 0), happened(conversationJoined, 0), c.log[11])
		}, want: counts{Doubled: 1}, first: "doubled 9"},
		"joined, and the first event is lost": {of: ofEverything, play: func(c *court, v *voice) {
			e := about(reactionAdded, 13, msg(8), "ann", "👍", 1)
			c.do(e)
			c.log = append(c.log, e)
			v.get(c.log[8], happened(conversationLeft, 0), happened(conversationJoined, 0), e)
		}, want: counts{Lost: 2}, first: "lost 13"},
		"caught up before it has joined": {of: ofEverything, play: func(c *court, v *voice) {
			v.get(c.log[8], happened(conversationLeft, 0))
			v.resume()
			v.caughtUp(0)
			v.get(happened(conversationJoined, 0), c.log[11])
		}, want: counts{OtherBreach: 1}, first: "too early 9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newBusyCourt(test.fromJoining)
			v := c.listen(test.of, "ben")
			v.get(c.lively()...)
			v.caughtUp(8)
			c.gone(9, 11)
			test.play(c, v)
			c.end()
			c.judge(t, test.want, test.first)
		})
	}
}

// What a cursor, and its end, mean.
func TestTheLawOfCursors(t *testing.T) {
	t.Parallel()
	reset, caught := happened(streamReset, 0), happened(caughtUp, 0)
	for name, test := range map[string]struct {
		start func(all *everything)
		play  func(c *court, v *voice, log []event)
		want  counts
		first string
	}{
		"what was read comes again": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 6, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log[4:]...)
				v.get(caught)
			},
		},
		"what was not read is lost": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 6, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log[7], caught)
			}, want: counts{Lost: 1}, first: "lost 7",
		},
		"from now on, and then it is read": {play: func(_ *court, v *voice, log []event) {
			v.get(caught)
			v.on.(*everything).starting("", map[string]int64{conv: 6, quiet: 1})
			v.get(log[5:]...)
		}},
		"from now on, and it is never read": {play: func(_ *court, v *voice, log []event) {
			v.get(caught)
			v.get(log[5:]...)
		}, want: counts{Lost: 5}, first: "lost 1"},
		"from now on, without CaughtUp first": {play: func(_ *court, v *voice, log []event) {
			v.get(log...)
			v.get(caught)
		}, want: counts{OtherBreach: 1}, first: "unexpected 1"},
		"begun anew, and what was missed is read": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 0, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log[:2]...)
				v.resume()
				v.get(reset)
				v.on.(*everything).starting("", map[string]int64{conv: 6, quiet: 1})
				v.get(log[5:]...)
				v.get(caught)
			},
		},
		"begun anew, and what comes then has a gap": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 0, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log[:2]...)
				v.resume()
				v.get(reset)
				v.on.(*everything).starting("", map[string]int64{conv: 6, quiet: 1})
				v.get(log[7], caught)
			}, want: counts{Lost: 1}, first: "lost 7",
		},
		"begun anew in silence": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 0, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log[:2]...)
				v.resume()
				v.get(log[5:]...)
				v.get(caught)
			}, want: counts{Lost: 3}, first: "lost 3",
		},
		"begun anew in the middle": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 0, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log...)
				v.get(caught, reset)
				v.on.(*everything).starting("", map[string]int64{conv: 8, quiet: 1})
			}, want: counts{OtherBreach: 1}, first: "unexpected 0",
		},
		"a conversation that there is not": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 0, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log...)
				v.getOf("conv_9", log[0])
				v.get(caught)
			}, want: counts{OtherBreach: 1}, first: "invented 1",
		},
		"another conversation": {
			start: func(all *everything) { all.starting("cursor 0", map[string]int64{conv: 0, quiet: 1}) },
			play: func(_ *court, v *voice, log []event) {
				v.get(log[:3]...)
				v.getOf(quiet, log[3])
				v.get(log[3:]...)
				v.get(caught)
			}, want: counts{OtherBreach: 1}, first: "invented 4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newBusyCourt(false)
			log := c.lively()
			all := c.everything("a stream of ben", "ben")
			if test.start != nil {
				test.start(all)
			}
			v := &voice{c: c, of: ofEverything, on: all}
			v.resume()
			test.play(c, v, log)
			c.end()
			c.judge(t, test.want, test.first)
		})
	}
}
