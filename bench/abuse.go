package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"parley/internal/client"
)

const (
	// emojiMessages is how many messages the largest honest page has.
	emojiMessages = 98
	// emojiContent is how many emoji each of them has.
	emojiContent = 4000
	// longConversations is how many conversations are full of such messages.
	longConversations = 8
)

// abuser has a server with the data of expensive requests.
type abuser struct {
	*bench
	*parleyServer
	// ids of the member's conversations: the first ones have the messages of emoji
	ids []string
}

// abusing measures the most expensive requests that are known: each alone, many connections at the
// same time, and how long they delay a follower.
func (b *bench) abusing(ctx context.Context) error {
	a, err := b.startAbuse(ctx)
	if err != nil {
		return err
	}
	defer func() { a.stop() }()
	alone := table{head: requestHead()}
	for _, r := range a.requests() {
		b.note("abuse: %s", r.name)
		row, err := a.requestRow(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		alone.add(row...)
		b.note("abuse: %s", strings.Join(row[1:], ", "))
	}
	together := table{head: []string{
		fmt.Sprintf("%d connections at once", floodConns), "peak memory above idle", "answered",
	}}
	for _, f := range a.floods() {
		b.note("abuse: %d connections: %s", floodConns, f.name)
		row, err := a.floodRow(ctx, f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		together.add(row...)
		b.note("abuse: %s", strings.Join(row[1:], ", "))
	}
	beside := table{head: []string{"a follower", "half within", "99 % within"}}
	for _, n := range []int{0, expensiveFollowers} {
		b.note("abuse: a follower and %d expensive ones", n)
		row, err := a.delayRow(ctx, n)
		if err != nil {
			return fmt.Errorf("a follower and %d expensive ones: %w", n, err)
		}
		beside.add(row...)
	}
	b.printf("\n## The most expensive requests\n\n")
	b.printf(
		"The built server on SQLite. CPU time of the process for one request, user and system " +
			"together, the best of three, and\n")
	b.printf(
		"by how much its resident memory grew at most (VmHWM), after it was freed. `{ __typename " +
			"}` stands for a request by itself.\n\n")
	alone.print(b.out)
	b.printf("\n")
	together.print(b.out)
	b.printf(
		"\nHow long a message takes to a follower of its conversation, from before it is sent; "+
			"and the same with %d followers,\n",
		expensiveFollowers)
	b.printf(
		"each on a connection of its own, whose selections have nearly 1,000 fields of each " +
			"event.\n\n")
	beside.print(b.out)
	return nil
}

// startAbuse starts the server, with the data that expensive requests read.
func (b *bench) startAbuse(ctx context.Context) (*abuser, error) {
	b.note("abuse: building the server")
	server := &parleyServer{
		binary: filepath.Join(b.dir, "parley"),
		dir:    filepath.Join(b.dir, "abuse"),
	}
	a := &abuser{bench: b, parleyServer: server}
	if err := a.build(ctx); err != nil {
		return nil, err
	}
	if err := a.begin(ctx, 101, 2); err != nil {
		return nil, err
	}
	a.ids = a.conversations
	if err := a.fill(ctx); err != nil {
		a.stop()
		return nil, err
	}
	return a, nil
}

// fill sends the messages that the requests read.
func (a *abuser) fill(ctx context.Context) error {
	a.note("abuse: writing messages")
	const send = "mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { id } } }"
	emoji := strings.Repeat("😀", emojiContent)
	for i := range emojiMessages + 1 {
		common := fmt.Sprintf("the common word, number %d", i)
		all := []object{{"conversationId": a.ids[longConversations], "content": common}}
		for _, id := range a.ids[:longConversations] {
			all = append(all, object{"conversationId": id, "content": emoji})
		}
		for _, in := range all {
			if err := a.ask(ctx, send, in, &struct{}{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// token returns the access token for a request: "" for an anonymous one.
func (a *abuser) token(r request) string {
	if r.anonymous {
		return ""
	}
	return a.tokens[0]
}

// requestHead returns the head of the table of requestRow.
func requestHead() []string {
	return []string{"request", "by", "sent", "CPU", "peak memory", "answer", "answered with"}
}

// requestRow measures one request, three times.
func (a *abuser) requestRow(ctx context.Context, r request) ([]string, error) {
	body, err := r.body()
	if err != nil {
		return nil, err
	}
	best, most := time.Duration(0), int64(0)
	var answer []byte
	for i := range 3 {
		before, err := a.resetMemory(ctx)
		if err != nil {
			return nil, err
		}
		var took time.Duration
		if took, answer, err = a.cost(ctx, a.token(r), body); err != nil {
			return nil, err
		}
		peak, err := peakMemory(a.pid())
		if err != nil {
			return nil, err
		}
		if i == 0 || took < best {
			best = took
		}
		most = max(most, peak-before)
	}
	by := "a member"
	if r.anonymous {
		by = "anonymous"
	}
	return []string{
		r.name, by, kilobytes(float64(len(body))), duration(best), megabytes(most),
		kilobytes(float64(len(answer))), answeredWith(answer),
	}, nil
}

// cost sends one request, and returns the server's CPU time for it, and the answer.
func (a *abuser) cost(
	ctx context.Context, token string, body []byte,
) (cpu time.Duration, answer []byte, err error) {
	before, err := processCPU(a.pid())
	if err != nil {
		return 0, nil, err
	}
	if _, answer, err = client.Post(ctx, httpClient, a.url, token, body); err != nil {
		return 0, nil, err
	}
	after, err := processCPU(a.pid())
	return after - before, answer, err
}

// resetMemory frees the server's memory, resets its peak and returns that.
func (a *abuser) resetMemory(ctx context.Context) (before int64, err error) {
	if err := a.debug(ctx, "/free", ""); err != nil {
		return 0, err
	}
	if err := resetPeakMemory(a.pid()); err != nil {
		return 0, err
	}
	return peakMemory(a.pid())
}
