package verify

import (
	"cmp"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// plan is everything that a run tries, drawn from a seed before it begins. The same seed and sizes
// give the same plan. The timing of the servers still differs between runs.
type plan struct {
	seed          uint64
	length        time.Duration
	people        int // numbered from 0
	nonMembers    int // the last of the people, who are in no conversation
	rate          int // messages a second, of all senders together
	conversations []conversationPlan
	followers     []followerPlan
	churns        []churn
	revocations   []revocation
	faults        []fault
}

// conversationPlan is a conversation and its first members.
type conversationPlan struct {
	members     []int // the first is the owner
	fromJoining bool  // history begins with joining
	// characters added to each message, so that streams fill the network's buffers
	padding int
	weight  int // how often members write to it, in relation to the other conversations
}

// authors is how many members of a conversation write to it: the first ones, who are never removed.
const authors = 3

// followerPlan follows one conversation from its beginning, or everything.
type followerPlan struct {
	person, conversation, node int
	source                     source
	transport                  transport
	fromNow                    bool // everything: without a cursor at first
	start                      time.Duration
	ownSession                 bool // which may be revoked
	smallBuffers               bool // the server notices soon if the client does not read
	breaks                     []plannedBreak
}

// transport is what carries a stream.
type transport string

const (
	overWebSocket transport = "graphql-transport-ws"
	overSSE       transport = "graphql-sse"
)

// streamKind is a source over a transport.
type streamKind struct {
	source    source
	transport transport
}

// streamKinds are the streams of the followers. A kind that is listed twice is followed twice as
// often.
func streamKinds() []streamKind {
	return []streamKind{
		{ofMessages, overWebSocket},
		{ofMessages, overWebSocket},
		{ofMessages, overSSE},
		{ofConversation, overWebSocket},
		{ofConversation, overWebSocket},
		{ofConversation, overSSE},
		{ofEverything, overWebSocket},
		{ofEverything, overSSE},
	}
}

// plannedBreak is a break of a follower's stream.
type plannedBreak struct {
	at    time.Duration
	kind  kind
	away  time.Duration // how long the follower is disconnected or asleep
	depth int           // where the next connection is cut: see follower.connect
}

// churn removes a member, and adds them again.
type churn struct {
	at, away             time.Duration
	conversation, person int
}

// revocation ends the session of a follower.
type revocation struct {
	at       time.Duration
	follower int
}

// fault is a fault of the cluster.
type fault struct {
	at, length time.Duration
	kind       kind
	node       int
	leavesOut  bool // parley restored runs after it, and leaves out seqs
}

// kind is a kind of break or fault, in the words of the report.
type kind string

const (
	cutLive       kind = "cut while live"
	cutHandshake  kind = "cut while it is opened"
	cutAck        kind = "cut once it is open"
	cutReplay     kind = "cut in the replay"
	sleeping      kind = "client asleep"
	renewing      kind = "token renewed on the socket"
	switching     kind = "node switched"
	resubscribing kind = "subscribed again on the socket"

	nodeLost       kind = "connection lost"
	nodeSilent     kind = "node silent"
	nodeLeft       kind = "closed by a stopping node"
	sessionOver    kind = "session or token over"
	closedByOther  kind = "closed for another reason"
	wasRefused     kind = "subscription refused for a while"
	wasRemoved     kind = "removed and added again"
	historyChanged kind = "told that the history has changed"

	killNode        kind = "node killed"
	stopNode        kind = "node stopped in order"
	freezeNode      kind = "node frozen"
	cutNATS         kind = "node cut from NATS"
	restartNATS     kind = "NATS restarted"
	restartPostgres kind = "PostgreSQL restarted"
	restoreCopy     kind = "older copy restored"
	promoteLagging  kind = "lagging standby promoted"
	switchOver      kind = "switched over, the old one read-only"
	refuseOlder     kind = "older version refused"
)

// undoes reports whether a fault undoes what was committed last. Its length is how long commits are
// made that it undoes.
func (k kind) undoes() bool { return k == restoreCopy || k == promoteLagging }

// sizes of a run.
type sizes struct {
	conversations, people, followers, rate, nodes int
	chaos, sqlite                                 bool
}

// draw returns a plan. Each part has a random generator of its own, so that a change of one part
// does not change the others.
func draw(seed uint64, length time.Duration, s sizes) *plan {
	const nonMembers = 2
	p := &plan{
		seed: seed, length: length, people: s.people + nonMembers, nonMembers: nonMembers,
		rate: s.rate,
	}
	p.drawConversations(p.rand("conversations"), s)
	p.drawFollowers(p.rand("followers"), s)
	p.drawRights(p.rand("rights"))
	if s.chaos {
		p.drawFaults(p.rand("faults"), s)
	}
	return p
}

// rand returns the random generator of one part.
func (p *plan) rand(part string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(part))
	return rand.New(rand.NewPCG(p.seed, h.Sum64()))
}

func (p *plan) drawConversations(r *rand.Rand, s sizes) {
	for i := range s.conversations {
		c := conversationPlan{
			members: r.Perm(s.people)[:min(s.people, 4+r.IntN(6))], fromJoining: i%2 == 1,
			padding: r.IntN(200), weight: 2,
		}
		if i%10 == 0 { // a busy one, with long messages
			c.padding, c.weight = 3000, s.conversations
		}
		p.conversations = append(p.conversations, c)
	}
}

func (p *plan) drawFollowers(r *rand.Rand, s sizes) {
	var left []streamKind
	for i := range s.followers {
		if len(left) == 0 {
			left = streamKinds()
			r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		c := i % len(p.conversations)
		members := p.conversations[c].members
		// The first follower of each conversation is the member who may be removed.
		round := i / len(p.conversations)
		f := followerPlan{
			conversation: c, person: members[(len(members)-1+round)%len(members)],
			node:       r.IntN(s.nodes),
			ownSession: i%5 == 4, smallBuffers: i%3 == 0, source: left[0].source,
			transport: left[0].transport,
		}
		f.fromNow = f.source == ofEverything && r.IntN(3) == 0
		left = left[1:]
		if i%7 == 6 { // starts late, with a long replay
			f.start = p.within(r, p.length/2)
		}
		for at := f.start + p.pause(r); at < p.length; at += p.pause(r) {
			f.breaks = append(f.breaks, drawBreak(r, f.transport, at, p.length))
		}
		p.followers = append(p.followers, f)
	}
}

// pause draws the time from one break of a follower to the next.
func (p *plan) pause(
	r *rand.Rand,
) time.Duration {
	return 2*time.Second + p.within(r, 8*time.Second)
}

func (p *plan) within(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(max(d, 1))))
}

func drawBreak(r *rand.Rand, over transport, at, length time.Duration) plannedBreak {
	kinds := []kind{
		cutLive, cutLive, cutHandshake, cutAck, cutReplay, cutReplay, sleeping,
		switching,
	}
	if over == overWebSocket { // which carries more than one operation
		kinds = append(kinds, renewing, resubscribing)
	}
	b := plannedBreak{at: at, kind: kinds[r.IntN(len(kinds))], depth: r.IntN(1000)}
	short := time.Duration(r.Int64N(int64(time.Second)))
	switch b.kind {
	case cutLive, switching:
		b.away = short
	case cutReplay: // long enough for new events to replay
		b.away = time.Second + 3*short
	case sleeping: // up to longer than a server waits for a client that does not read
		b.away = min(time.Second+12*short, length/4)
	default:
	}
	return b
}

// drawRights draws removals of the last member of a conversation, who is added again, and ends of
// sessions.
func (p *plan) drawRights(r *rand.Rand) {
	free := make([]time.Duration, len(p.conversations)) // when the next removal may begin
	at := 2*time.Second + p.within(r, time.Second)
	for ; at < p.length-5*time.Second; at += time.Second + p.within(r, 2*time.Second) {
		c := r.IntN(len(p.conversations))
		members := p.conversations[c].members
		away := 500*time.Millisecond + p.within(r, 4*time.Second)
		if len(members) <= authors || at < free[c] {
			continue
		}
		p.churns = append(p.churns, churn{
			at: at, away: away, conversation: c,
			person: members[len(members)-1],
		})
		free[c] = at + away + 3*time.Second
	}
	var own []int // followers with a session of their own
	for i, f := range p.followers {
		if f.ownSession {
			own = append(own, i)
		}
	}
	at = 3*time.Second + p.within(r, time.Second)
	for ; len(own) > 0 && at < p.length; at += 2*time.Second + p.within(r, 4*time.Second) {
		p.revocations = append(p.revocations, revocation{at: at, follower: own[r.IntN(len(own))]})
	}
}

// drawFaults draws one fault after another. It draws each kind before it repeats any.
func (p *plan) drawFaults(r *rand.Rand, s sizes) {
	kinds := []kind{
		killNode, freezeNode, cutNATS, restartNATS, restartPostgres, killNode, stopNode,
		restoreCopy, promoteLagging, switchOver, refuseOlder,
	}
	if s.sqlite {
		kinds = []kind{killNode, freezeNode, stopNode, restoreCopy, refuseOlder, restoreCopy}
	}
	var left []kind
	for at := 3 * time.Second; ; {
		if len(left) == 0 {
			left = slices.Clone(kinds)
			r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		}
		f := fault{at: at, kind: left[0], node: r.IntN(s.nodes)}
		f.length = 200*time.Millisecond + p.within(r, 2*time.Second)
		switch f.kind {
		case freezeNode:
			longest := min(20*time.Second, p.length/5)
			f.length = longest/2 + p.within(r, longest/2)
		case cutNATS, restartNATS:
			f.length = time.Second + p.within(r, 6*time.Second)
		case restoreCopy, promoteLagging:
			f.length = time.Second + p.within(r, 3*time.Second)
			f.leavesOut = r.IntN(2) == 0
		default:
		}
		if f.at+f.length > p.length-2*time.Second {
			return
		}
		left = left[1:]
		p.faults = append(p.faults, f)
		at += f.length + 2*time.Second + p.within(r, 2*time.Second)
	}
}

// churnsByConversation returns the churns of each conversation in order. One happens after another,
// so that the members are known.
func (p *plan) churnsByConversation() map[int][]churn {
	by := map[int][]churn{}
	for _, c := range p.churns {
		by[c.conversation] = append(by[c.conversation], c)
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b churn) int { return cmp.Compare(a.at, b.at) })
	}
	return by
}
