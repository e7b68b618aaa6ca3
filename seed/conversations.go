package seed

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"parley/membership"
	"parley/model"
)

// conversation is one, as it is at the moment, and what is still to happen in it.
type conversation struct {
	model.Conversation
	members []*model.ConversationMember
	numbers map[model.UserID]int // of those who are or were members, among the people
	spoken  int                  // the language that is spoken
	recent  []*model.Message
	// pending is how much is to come that needs those to be members who are.
	pending int

	begins, ends time.Time
	messages     int // to be sent
}

// plan says which conversations there will be, how much is said in each, and when they begin.
func (w *walk) plan() {
	pairs := w.size.People * (w.size.People - 1) / 2
	direct := min(w.size.Conversations*55/100, int(float64(pairs)*maxPairs))
	taken := map[string]bool{}
	for i := range w.size.Conversations {
		c := &conversation{numbers: map[model.UserID]int{}}
		if i < direct {
			w.pair(c, taken)
		} else {
			w.group(c)
		}
		w.conversations = append(w.conversations, c)
	}
	w.share()
	for _, c := range w.conversations {
		// Who has much to say to each other has known each other for long, and still does.
		length, silence := w.rng.Float64(), w.rng.Float64()
		if c.messages > 4*w.size.Messages/w.size.Conversations {
			length, silence = 0.5+length/2, silence*silence/100
		}
		c.begins = w.now.Add(-time.Hour - time.Duration(length*float64(year-time.Hour))).Truncate(time.Microsecond)
		c.ends = w.now.Add(-time.Duration(silence * silence * float64(w.now.Sub(c.begins)-time.Minute)))
		w.at(c.begins, func(at time.Time) { w.begin(c, at) })
	}
}

// pair makes a direct conversation of two who have none yet.
func (w *walk) pair(c *conversation, taken map[string]bool) {
	c.Kind = model.Direct
	for {
		people := w.some(2)
		ids := []string{w.people[people[0]].ID.String(), w.people[people[1]].ID.String()}
		slices.Sort(ids)
		if key := strings.Join(ids, " "); !taken[key] { // as chat makes it
			taken[key] = true
			c.DirectKey, c.History = &key, model.FromStart
			w.gather(c, people)
			return
		}
	}
}

// group makes a group: most are small, and a few very large.
func (w *walk) group(c *conversation) {
	c.Kind, c.MembersMayRename = model.Group, w.chance(0.2)
	c.History = model.FromStart
	if w.chance(0.3) {
		c.History = model.FromJoining
	}
	n := int(2.5 * math.Pow(1-w.rng.Float64(), -0.7))
	w.gather(c, w.some(max(2, min(n, membership.Max, w.size.People))))
	c.Title = w.title(c.spoken)
	if len(c.members) <= 5 && w.chance(0.5) {
		var nicknames []string
		for _, m := range c.members {
			nicknames = append(nicknames, w.people[c.numbers[m.UserID]].Nickname)
		}
		c.Title, c.Untitled = strings.Join(nicknames, ", "), true
	}
}

// some picks different people; some people are in many more conversations than others.
func (w *walk) some(n int) []int {
	if n > w.size.People/3 {
		return w.rng.Perm(w.size.People)[:n]
	}
	picked := make([]int, 0, n)
	for len(picked) < n {
		i := int(math.Pow(w.rng.Float64(), 1.5) * float64(w.size.People))
		if !slices.Contains(picked, i) {
			picked = append(picked, i)
		}
	}
	return picked
}

// gather makes people the members that a conversation begins with.
func (w *walk) gather(c *conversation, people []int) {
	c.spoken = w.speaks[people[0]]
	for i, person := range people {
		role := model.Member
		switch {
		case c.Kind == model.Direct:
		case i == 0:
			role = model.Owner
		case w.chance(0.08):
			role = model.Admin
		}
		w.join(c, person, role)
	}
}

func (w *walk) join(c *conversation, person int, role model.Role) *model.ConversationMember {
	id := w.people[person].ID
	c.numbers[id] = person
	m := &model.ConversationMember{UserID: id, Role: role}
	c.members = append(c.members, m)
	return m
}

// share shares the messages out: the larger a group, the more is said in it as a rule, and a few
// are much busier than others.
func (w *walk) share() {
	busy := map[*conversation]float64{}
	for _, c := range w.conversations {
		busy[c] = math.Log(float64(len(c.members))) + 1.5*w.rng.NormFloat64()
	}
	ranked := slices.Clone(w.conversations)
	slices.SortStableFunc(ranked, func(a, b *conversation) int { return cmp.Compare(busy[b], busy[a]) })
	weight := func(rank int) float64 { return 1 / (float64(rank) + 1 + float64(len(ranked))/1000) }
	var all float64
	for rank := range ranked {
		all += weight(rank)
	}
	left := w.size.Messages
	for rank, c := range ranked {
		c.messages = int(float64(w.size.Messages) * weight(rank) / all)
		left -= c.messages
	}
	for i := 0; left > 0; left-- {
		ranked[i%len(ranked)].messages++
		i++
	}
}

// begin has a conversation start, and says when its messages come.
func (w *walk) begin(c *conversation, at time.Time) {
	c.ID = model.ConversationID(w.id(at))
	c.CreatedAt = at
	data := model.ConversationCreatedData{
		Kind: c.Kind, Title: c.Title, History: c.History, MembersMayRename: c.MembersMayRename,
	}
	for _, m := range c.members {
		m.ConversationID, m.JoinedAt, m.JoinedSeq, m.LastReadSeq = c.ID, at, 1, 1
		data.Members = append(data.Members, model.MemberData{UserID: m.UserID, Role: m.Role})
	}
	w.record(c, model.ConversationCreated, at, c.members[0].UserID, nil, data)
	row := c.Conversation
	w.batch.conversations = append(w.batch.conversations, &row)

	w.nextMessage(c, w.times(c))
	if c.Kind == model.Direct {
		return
	}
	for n := int(w.rng.ExpFloat64() * 2.5); n > 0; n-- {
		when := at.Add(time.Duration(w.rng.Float64() * float64(c.ends.Sub(at)))).Truncate(time.Microsecond)
		w.at(when, func(at time.Time) { w.reorganize(c, at) })
	}
}

func (w *walk) nextMessage(c *conversation, times []time.Time) {
	if len(times) == 0 {
		return
	}
	w.at(times[0], func(at time.Time) {
		w.talk(c, at)
		w.nextMessage(c, times[1:])
	})
}

// times says when the messages of a conversation come: several soon after each other, and then none
// for long.
func (w *walk) times(c *conversation) []time.Time {
	gaps := make([]float64, c.messages)
	var all float64
	for i := range gaps {
		gaps[i] = w.rng.ExpFloat64()
		if w.chance(0.2) {
			gaps[i] *= 300
		}
		all += gaps[i]
	}
	times := make([]time.Time, c.messages)
	var passed float64
	for i, gap := range gaps {
		passed += gap
		times[i] = c.begins.Add(time.Duration(passed / all * float64(c.ends.Sub(c.begins)))).Truncate(time.Microsecond)
	}
	return times
}

// reorganize changes a group's members, their roles, or its name.
func (w *walk) reorganize(c *conversation, at time.Time) {
	owner := c.members[slices.IndexFunc(c.members, func(m *model.ConversationMember) bool { return m.Role == model.Owner })]
	switch w.among(5) {
	case 0:
		if title := w.title(c.spoken); title != c.Title {
			c.Title, c.Untitled = title, false
			w.record(c, model.ConversationRenamed, at, owner.UserID, nil, model.ConversationRenamedData{Title: title})
		}
	case 1:
		c.MembersMayRename = !c.MembersMayRename
		w.record(c, model.SettingsChanged, at, owner.UserID, nil, model.SettingsChangedData{MembersMayRename: c.MembersMayRename})
	case 2, 3:
		w.add(c, owner, at)
	default:
		if other := c.members[w.among(len(c.members))]; other != owner {
			w.removeOrPromote(c, owner, other, at)
		}
	}
}

func (w *walk) add(c *conversation, owner *model.ConversationMember, at time.Time) {
	person := w.some(1)[0]
	id := w.people[person].ID
	there := slices.ContainsFunc(c.members, func(m *model.ConversationMember) bool { return m.UserID == id })
	if there || len(c.members) == membership.Max {
		return
	}
	m := w.join(c, person, model.Member)
	w.record(c, model.MemberAdded, at, owner.UserID, nil, model.MemberAddedData{UserID: id, Role: m.Role})
	m.ConversationID, m.JoinedAt, m.JoinedSeq, m.LastReadSeq = c.ID, at, c.LastSeq, c.LastSeq
	if c.History == model.FromJoining {
		m.HiddenSeq = c.LastSeq - 1
	}
}

func (w *walk) removeOrPromote(c *conversation, owner, other *model.ConversationMember, at time.Time) {
	switch {
	case w.chance(0.4):
		if other.Role == model.Member {
			other.Role = model.Admin
			w.record(c, model.MemberRoleChanged, at, owner.UserID, nil,
				model.MemberRoleChangedData{UserID: other.UserID, Role: other.Role})
		}
	case c.pending == 0 && len(c.members) > 2:
		actor := owner
		if w.chance(0.5) {
			actor = other // who leaves
		}
		c.members = slices.DeleteFunc(c.members, func(m *model.ConversationMember) bool { return m == other })
		w.record(c, model.MemberRemoved, at, actor.UserID, nil, model.MemberRemovedData{UserID: other.UserID})
	}
}

// settle says how far everybody has read in the end, and what they have put away.
func (w *walk) settle(c *conversation) {
	for _, m := range c.members {
		behind := float64(c.LastSeq - m.JoinedSeq)
		switch how := w.rng.Float64(); {
		case how < 0.55:
			m.LastReadSeq = c.LastSeq
		case how < 0.9: // they were there not long ago
			m.LastReadSeq = c.LastSeq - int64(math.Min(behind, w.rng.ExpFloat64()*15))
		default: // they have lost sight of it
			m.LastReadSeq = m.JoinedSeq + int64(w.rng.Float64()*behind)
		}
		switch how := w.rng.Float64(); {
		case how < 0.05:
			m.ArchivedSeq = c.LastSeq
		case how < 0.08: // a message may have brought it back
			m.ArchivedSeq = m.JoinedSeq + int64(w.rng.Float64()*behind)
		case how < 0.11:
			m.Pinned = true
		}
		switch how := w.rng.Float64(); {
		case how < 0.04:
			m.MutedUntil = &model.Forever
		case how < 0.06:
			until := w.now.Add(time.Duration((w.rng.Float64()*14 - 7) * float64(day))).Truncate(time.Microsecond)
			m.MutedUntil = &until
		}
		if w.chance(0.01) {
			draft := w.say(c.spoken)
			m.Draft = &draft
		}
	}
}
