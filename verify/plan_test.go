package verify

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func testPlan(seed uint64) *plan {
	return draw(seed, time.Minute,
		sizes{conversations: 20, people: 40, followers: 60, rate: 60, nodes: 3, chaos: true})
}

func TestTheSameSeedIsTheSamePlan(t *testing.T) {
	t.Parallel()
	if !reflect.DeepEqual(testPlan(7), testPlan(7)) {
		t.Error("two plans of one seed differ")
	}
	if reflect.DeepEqual(testPlan(7).faults, testPlan(8).faults) ||
		reflect.DeepEqual(testPlan(7).followers, testPlan(8).followers) {
		t.Error("two seeds have one plan")
	}
}

// Every plan has the properties that the checks rely on.
func TestPlans(t *testing.T) {
	t.Parallel()
	seen, fromNow := map[kind]bool{}, false
	for seed := range uint64(50) {
		p := testPlan(seed)
		for _, list := range p.churnsByConversation() {
			free := time.Duration(0)
			for _, c := range list {
				members := p.conversations[c.conversation].members
				if i := slices.Index(members, c.person); i < authors {
					t.Errorf("seed %d: member %d is removed, who is an author or does not exist",
						seed, i)
				}
				if c.at < free {
					t.Errorf("seed %d: two removals from a conversation at the same time", seed)
				}
				free = c.at + c.away
			}
		}
		free := time.Duration(0)
		for _, f := range p.faults {
			if f.at < free || f.at+f.length > p.length || f.length > 20*time.Second || f.node >= 3 {
				t.Errorf("seed %d: %+v is too early, too long, or on no node", seed, f)
			}
			free = f.at + f.length
			seen[f.kind] = true
		}
		followed := map[streamKind]int{}
		for _, f := range p.followers {
			followed[streamKind{f.source, f.transport}]++
			if !slices.Contains(p.conversations[f.conversation].members, f.person) {
				t.Errorf("seed %d: %+v follows a conversation without being a member", seed, f)
			}
			for i, b := range f.breaks {
				if b.at < f.start || b.at > p.length || i > 0 && b.at < f.breaks[i-1].at {
					t.Errorf("seed %d: the breaks are not in order: %+v", seed, f.breaks)
				}
				seen[b.kind] = true
				if f.transport == overSSE && (b.kind == renewing || b.kind == resubscribing) {
					t.Errorf("seed %d: %q over server-sent events", seed, b.kind)
				}
			}
			fromNow = fromNow || f.fromNow
		}
		for _, w := range streamKinds() {
			if least := len(p.followers) / len(streamKinds()); followed[w] < least {
				t.Errorf("seed %d: %d follow %v, want %d", seed, followed[w], w, least)
			}
		}
		for _, r := range p.revocations {
			if !p.followers[r.follower].ownSession {
				t.Errorf("seed %d: a revocation ends a session that senders use", seed)
			}
		}
	}
	if !fromNow {
		t.Error("no follower follows everything without a cursor")
	}
	for _, k := range []kind{
		restoreCopy, promoteLagging, switchOver, refuseOlder,
		killNode, stopNode, freezeNode, cutNATS, restartNATS, restartPostgres,
		cutLive, cutHandshake, cutAck, cutReplay, sleeping, renewing, switching, resubscribing,
	} {
		if !seen[k] {
			t.Errorf("never planned: %s", k)
		}
	}
}

func TestFewPeople(t *testing.T) {
	t.Parallel()
	p := draw(1, time.Second, sizes{conversations: 1, people: 4, followers: 1, rate: 1, nodes: 1})
	if n := len(p.conversations[0].members); n != 4 || len(p.faults) > 0 {
		t.Errorf("%d members, %v", n, p.faults)
	}
}
