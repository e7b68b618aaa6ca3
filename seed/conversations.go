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

// conversation is a conversation in its current state, and the plan for the rest of its time.
type conversation struct {
	model.Conversation
	members  []*model.ConversationMember
	indexes  map[model.UserID]int // in generator.people, of current and former members
	language int
	recent   []*model.Message
	// pending counts the planned events whose actor must still be a member then. No member is
	// removed before them.
	pending int

	begins, ends time.Time
	messages     int // how many are sent
}

// plan decides which conversations there are, how many messages each has, and when they begin.
func (g *generator) plan() {
	pairs := g.size.People * (g.size.People - 1) / 2
	direct := min(g.size.Conversations*55/100, int(float64(pairs)*maxPairs))
	taken := map[string]bool{}
	for i := range g.size.Conversations {
		c := &conversation{indexes: map[model.UserID]int{}}
		if i < direct {
			g.pair(c, taken)
		} else {
			g.group(c)
		}
		g.conversations = append(g.conversations, c)
	}
	g.distribute()
	for _, c := range g.conversations {
		// Busy conversations began long ago and go on until now.
		length, silence := g.rng.Float64(), g.rng.Float64()
		if c.messages > 4*g.size.Messages/g.size.Conversations {
			length, silence = 0.5+length/2, silence*silence/100
		}
		c.begins = g.now.Add(-time.Hour - time.Duration(length*float64(year-time.Hour))).
			Truncate(time.Microsecond)
		c.ends = g.now.Add(-time.Duration(
			silence * silence * float64(g.now.Sub(c.begins)-time.Minute)))
		g.at(c.begins, func(at time.Time) { g.begin(c, at) })
	}
}

// pair makes a direct conversation of two people who have none.
func (g *generator) pair(c *conversation, taken map[string]bool) {
	c.Kind = model.Direct
	for {
		people := g.pick(2)
		if key := model.DirectKey(g.people[people[0]].ID, g.people[people[1]].ID); !taken[key] {
			taken[key] = true
			c.DirectKey, c.History = &key, model.FromStart
			g.addFirst(c, people)
			return
		}
	}
}

// group makes a group. Most groups are small, and a few very large.
func (g *generator) group(c *conversation) {
	c.Kind, c.MembersMayRename = model.Group, g.chance(0.2)
	c.History = model.FromStart
	if g.chance(0.3) {
		c.History = model.FromJoining
	}
	n := int(2.5 * math.Pow(1-g.rng.Float64(), -0.7))
	g.addFirst(c, g.pick(max(2, min(n, membership.Max, g.size.People))))
	c.Title = g.title(c.language)
	if len(c.members) <= 5 && g.chance(0.5) {
		var nicknames []string
		for _, m := range c.members {
			nicknames = append(nicknames, g.people[c.indexes[m.UserID]].Nickname)
		}
		c.Title, c.Untitled = strings.Join(nicknames, ", "), true
	}
}

// pick returns n different people. Some people are in many more conversations than others.
func (g *generator) pick(n int) []int {
	if n > g.size.People/3 {
		return g.rng.Perm(g.size.People)[:n]
	}
	picked := make([]int, 0, n)
	for len(picked) < n {
		i := int(math.Pow(g.rng.Float64(), 1.5) * float64(g.size.People))
		if !slices.Contains(picked, i) {
			picked = append(picked, i)
		}
	}
	return picked
}

// addFirst adds the members that a conversation begins with.
func (g *generator) addFirst(c *conversation, people []int) {
	c.language = g.languages[people[0]]
	for i, person := range people {
		role := model.Member
		switch {
		case c.Kind == model.Direct:
		case i == 0:
			role = model.Owner
		case g.chance(0.08):
			role = model.Admin
		}
		g.join(c, person, role)
	}
}

func (g *generator) join(c *conversation, person int, role model.Role) *model.ConversationMember {
	id := g.people[person].ID
	c.indexes[id] = person
	m := &model.ConversationMember{UserID: id, Role: role}
	c.members = append(c.members, m)
	return m
}

// distribute decides how many messages each conversation has. Larger groups tend to have more, and
// a few conversations have many more than the others.
func (g *generator) distribute() {
	busy := map[*conversation]float64{}
	for _, c := range g.conversations {
		busy[c] = math.Log(float64(len(c.members))) + 1.5*g.rng.NormFloat64()
	}
	ranked := slices.Clone(g.conversations)
	slices.SortStableFunc(ranked, func(a, b *conversation) int {
		return cmp.Compare(busy[b], busy[a])
	})
	weight := func(rank int) float64 { return 1 / (float64(rank) + 1 + float64(len(ranked))/1000) }
	var all float64
	for rank := range ranked {
		all += weight(rank)
	}
	left := g.size.Messages
	for rank, c := range ranked {
		c.messages = int(float64(g.size.Messages) * weight(rank) / all)
		left -= c.messages
	}
	for i := 0; left > 0; left-- {
		ranked[i%len(ranked)].messages++
		i++
	}
}

// begin starts a conversation, and schedules its messages and changes.
func (g *generator) begin(c *conversation, at time.Time) {
	c.ID = model.ConversationID(g.id(at))
	c.CreatedAt = at
	data := model.ConversationCreatedData{
		Kind: c.Kind, Title: c.Title, History: c.History, MembersMayRename: c.MembersMayRename,
	}
	for _, m := range c.members {
		m.ConversationID, m.JoinedAt, m.JoinedSeq, m.LastReadSeq = c.ID, at, 1, 1
		data.Members = append(data.Members, model.MemberData{UserID: m.UserID, Role: m.Role})
	}
	g.record(c, model.ConversationCreated, at, c.members[0].UserID, nil, data)
	row := c.Conversation
	g.batch.conversations = append(g.batch.conversations, &row)

	g.nextMessage(c, g.times(c))
	if c.Kind == model.Direct {
		return
	}
	for n := int(g.rng.ExpFloat64() * 2.5); n > 0; n-- {
		when := at.Add(time.Duration(g.rng.Float64() * float64(c.ends.Sub(at)))).
			Truncate(time.Microsecond)
		g.at(when, func(at time.Time) { g.reorganize(c, at) })
	}
}

func (g *generator) nextMessage(c *conversation, times []time.Time) {
	if len(times) == 0 {
		return
	}
	g.at(times[0], func(at time.Time) {
		g.send(c, at)
		g.nextMessage(c, times[1:])
	})
}

// times returns when the messages of a conversation are sent: in bursts, with long pauses between
// them.
func (g *generator) times(c *conversation) []time.Time {
	gaps := make([]float64, c.messages)
	var all float64
	for i := range gaps {
		gaps[i] = g.rng.ExpFloat64()
		if g.chance(0.2) {
			gaps[i] *= 300
		}
		all += gaps[i]
	}
	times := make([]time.Time, c.messages)
	var passed float64
	for i, gap := range gaps {
		passed += gap
		times[i] = c.begins.Add(time.Duration(passed / all * float64(c.ends.Sub(c.begins)))).
			Truncate(time.Microsecond)
	}
	return times
}

// reorganize changes a group's members, their roles, its title or its settings.
func (g *generator) reorganize(c *conversation, at time.Time) {
	owner := c.members[slices.IndexFunc(c.members,
		func(m *model.ConversationMember) bool { return m.Role == model.Owner })]
	switch g.among(5) {
	case 0:
		if title := g.title(c.language); title != c.Title {
			c.Title, c.Untitled = title, false
			g.record(c, model.ConversationRenamed, at, owner.UserID, nil,
				model.ConversationRenamedData{Title: title})
		}
	case 1:
		c.MembersMayRename = !c.MembersMayRename
		g.record(c, model.SettingsChanged, at, owner.UserID, nil,
			model.SettingsChangedData{MembersMayRename: c.MembersMayRename})
	case 2, 3:
		g.add(c, owner, at)
	default:
		if other := c.members[g.among(len(c.members))]; other != owner {
			g.removeOrPromote(c, owner, other, at)
		}
	}
}

func (g *generator) add(c *conversation, owner *model.ConversationMember, at time.Time) {
	person := g.pick(1)[0]
	id := g.people[person].ID
	isMember := slices.ContainsFunc(c.members,
		func(m *model.ConversationMember) bool { return m.UserID == id })
	if isMember || len(c.members) == membership.Max {
		return
	}
	m := g.join(c, person, model.Member)
	g.record(c, model.MemberAdded, at, owner.UserID, nil,
		model.MemberAddedData{UserID: id, Role: m.Role})
	m.ConversationID, m.JoinedAt, m.JoinedSeq, m.LastReadSeq = c.ID, at, c.LastSeq, c.LastSeq
	if c.History == model.FromJoining {
		m.HiddenSeq = c.LastSeq - 1
	}
}

func (g *generator) removeOrPromote(
	c *conversation, owner, other *model.ConversationMember, at time.Time,
) {
	switch {
	case g.chance(0.4):
		if other.Role == model.Member {
			other.Role = model.Admin
			g.record(c, model.MemberRoleChanged, at, owner.UserID, nil,
				model.MemberRoleChangedData{UserID: other.UserID, Role: other.Role})
		}
	case c.pending == 0 && len(c.members) > 2:
		actor := owner
		if g.chance(0.5) {
			actor = other // leaves
		}
		c.members = slices.DeleteFunc(c.members,
			func(m *model.ConversationMember) bool { return m == other })
		g.record(c, model.MemberRemoved, at, actor.UserID, nil,
			model.MemberRemovedData{UserID: other.UserID})
	}
}

// setMemberStates decides how far the members have read in the end, and what they have archived,
// pinned, muted and drafted.
func (g *generator) setMemberStates(c *conversation) {
	for _, m := range c.members {
		behind := float64(c.LastSeq - m.JoinedSeq)
		switch how := g.rng.Float64(); {
		case how < 0.55:
			m.LastReadSeq = c.LastSeq
		case how < 0.9: // they were there recently
			m.LastReadSeq = c.LastSeq - int64(math.Min(behind, g.rng.ExpFloat64()*15))
		default: // they have not looked for long
			m.LastReadSeq = m.JoinedSeq + int64(g.rng.Float64()*behind)
		}
		switch how := g.rng.Float64(); {
		case how < 0.05:
			m.ArchivedSeq = c.LastSeq
		case how < 0.08: // a message may have unarchived it
			m.ArchivedSeq = m.JoinedSeq + int64(g.rng.Float64()*behind)
		case how < 0.11:
			m.Pinned = true
		}
		switch how := g.rng.Float64(); {
		case how < 0.04:
			m.MutedUntil = &model.Forever
		case how < 0.06:
			until := g.now.Add(time.Duration((g.rng.Float64()*14 - 7) * float64(day))).
				Truncate(time.Microsecond)
			m.MutedUntil = &until
		}
		if g.chance(0.01) {
			draft := g.compose(c.language)
			m.Draft = &draft
		}
	}
}
