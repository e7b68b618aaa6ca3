package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// What the largest honest page has in it.
	emojiMessages = 98
	emojiContent  = 4000
	// longConversations are full of such messages.
	longConversations = 8
	// abuseConns ask at once, each so often.
	abuseConns = 50
	abuseEach  = 4
	// abuseFollowed is how many subscriptions each connection has in the row about subscriptions.
	abuseFollowed = 100
)

// abuser has a server and what dear requests need of it.
type abuser struct {
	*bench
	*parleyServer
	ids []string // of conversations that the member is in; the first has the messages of emoji
}

// abusing measures the dearest requests that are known, each alone, and what many connections at
// once take.
func (b *bench) abusing(ctx context.Context) error {
	a, err := b.abused(ctx)
	if err != nil {
		return err
	}
	defer func() { a.stop() }()
	alone := table{head: []string{"request", "by", "sent", "CPU", "peak memory", "answer", "answered with"}}
	for _, r := range a.requests() {
		b.note("abuse: %s", r.name)
		row, err := a.row(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		alone.add(row...)
		b.note("abuse: %s", strings.Join(row[1:], ", "))
	}
	together := table{head: []string{fmt.Sprintf("%d connections at once", abuseConns), "peak memory above idle", "answered"}}
	for _, r := range a.crowds() {
		b.note("abuse: %d connections: %s", abuseConns, r.name)
		row, err := a.crowd(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		together.add(row...)
		b.note("abuse: %s", strings.Join(row[1:], ", "))
	}
	beside := table{head: []string{"a follower", "half within", "99 % within"}}
	for _, dear := range []int{0, dearFollowers} {
		b.note("abuse: a follower beside %d dear ones", dear)
		row, err := a.delayed(ctx, dear)
		if err != nil {
			return fmt.Errorf("beside %d dear followers: %w", dear, err)
		}
		beside.add(row...)
	}
	b.printf("\n## The dearest requests\n\n")
	b.printf("The built server on SQLite. CPU time of the process for one request, user and system together, the best of three, and\n")
	b.printf("by how much its resident memory grew at most (VmHWM), after it was freed. `{ __typename }` stands for a request by itself.\n\n")
	alone.print(b.out)
	b.printf("\n")
	together.print(b.out)
	b.printf("\nHow long a message takes to a follower of its conversation, from before it is sent; and beside %d followers, each on a\n", dearFollowers)
	b.printf("connection of its own, whose selections take nearly 1,000 fields of each event.\n\n")
	beside.print(b.out)
	return nil
}

const (
	dearFollowers = 20
	dearMessages  = 60
)

// delayed measures how long messages take to one follower, beside others that ask for much.
func (a *abuser) delayed(ctx context.Context, dear int) ([]string, error) {
	join := func(fields string) (*conn, error) {
		a.fields = fields
		return a.join(longConversations, 0, a.last(longConversations))
	}
	a.seqs[longConversations] = emojiMessages + 2 // after the messages that fill has sent
	for range dear {
		c, err := join("seq conversation { messages(last: 95) { nodes { id seq content createdAt editedAt deletedAt author { id nickname } } } }")
		if err != nil {
			return nil, err
		}
		defer c.close()
		go func() {
			for {
				if _, err := c.message(); err != nil {
					return
				}
			}
		}()
		defer func() { _ = syscall.Shutdown(c.fd, syscall.SHUT_RDWR) }()
	}
	c, err := join("seq content")
	if err != nil {
		return nil, err
	}
	defer c.close()
	var took []float64
	for n := range dearMessages {
		sent := time.Now()
		if err := a.send(ctx, longConversations); err != nil {
			return nil, err
		}
		for {
			m, err := c.message()
			if err != nil {
				return nil, err
			}
			if bytes.Contains(m, fmt.Appendf(nil, `"seq":%d,`, a.last(longConversations))) {
				break
			}
		}
		if n >= dearMessages/6 { // until all follow
			took = append(took, time.Since(sent).Seconds())
		}
	}
	slices.Sort(took)
	name := "alone"
	if dear > 0 {
		name = fmt.Sprintf("beside %d dear ones", dear)
	}
	return []string{name, medianDuration(took), duration(seconds(took[len(took)*99/100]))}, nil
}

// abused starts the server, with what dear requests need.
func (b *bench) abused(ctx context.Context) (*abuser, error) {
	b.note("abuse: building the server")
	a := &abuser{bench: b, parleyServer: &parleyServer{binary: filepath.Join(b.dir, "parley"), dir: filepath.Join(b.dir, "abuse")}}
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

// fill writes what the requests read.
func (a *abuser) fill(ctx context.Context) error {
	a.note("abuse: writing messages")
	const send = "mutation ($in: SendMessageInput!) { sendMessage(input: $in) { message { id } } }"
	for i := range emojiMessages + 1 {
		all := []object{{"conversationId": a.ids[longConversations], "content": fmt.Sprintf("the common word, number %d", i)}}
		for _, id := range a.ids[:longConversations] {
			all = append(all, object{"conversationId": id, "content": strings.Repeat("😀", emojiContent)})
		}
		for _, in := range all {
			if err := a.ask(ctx, send, in, &struct{}{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// dear is one request.
type dear struct {
	name      string
	anonymous bool
	query     string
	variables any
}

func repeated(n int, part func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(part(i))
	}
	return b.String()
}

func (a *abuser) requests() []dear {
	const large = 255 << 10
	id, common := a.ids[0], a.ids[longConversations]
	quoted := func(ids []string) string {
		b, _ := json.Marshal(ids)
		return string(b)
	}
	fields := func(i int) string { return fmt.Sprintf(" a%d: id", i) }
	nested := func(depth int) string {
		return repeated(depth, func(i int) string { return fmt.Sprintf(" fragment F%d on Query { ...F%d ...F%d }", i, i+1, i+1) }) +
			fmt.Sprintf(" fragment F%d on Query { __typename }", depth)
	}
	page := func(selection string) string {
		return fmt.Sprintf(`{ conversation(id: %q) { messages(last: %d) { nodes { %s } } } }`, id, emojiMessages, selection)
	}
	list := func(n int, item string) []any {
		all := make([]any, n)
		for i := range all {
			all[i] = item
		}
		return all
	}
	deep := func(open, inner, end string, n int) json.RawMessage {
		return json.RawMessage(strings.Repeat(open, n) + inner + strings.Repeat(end, n))
	}
	const user = "query ($v: ID!) { user(id: $v) { id } }"
	return []dear{
		{"`{ __typename }`", true, "{ __typename }", nil},
		{"820 × `aN: aN`", true, "{" + repeated(820, func(i int) string { return fmt.Sprintf(" a:a%d", i) }) + "}", nil},
		{"2,400 × `x`", true, "{" + strings.Repeat(" x", 2400) + "}", nil},
		{"400 × `viewer(aN: 1)`", true, "{" + repeated(400, func(i int) string { return fmt.Sprintf(" viewer(a%d:1){id}", i) }) + "}", nil},
		{"1,200 × `@a`", true, "{ __typename" + strings.Repeat(" @a", 1200) + " }", nil},
		{"14 aliases of `fields`, through `ofType`", true, "{ __schema { types { ...T } } } fragment T on __Type {" +
			repeated(14, func(i int) string { return fmt.Sprintf(" f%d: fields { type { ofType { ofType { ...N } } } }", i) }) +
			" } fragment N on __Type { name fields { name type { ofType { name } } } }", nil},
		{"introspection, as tools ask", true, introspectionQuery, nil},
		{"fragments that double, 25 deep", true, "{ ...F0 }" + nested(25), nil},
		{"150 fragments × 150 operations", true, repeated(150, func(i int) string { return fmt.Sprintf(" query Q%d { ...F%d }", i, i) }) +
			repeated(150, func(i int) string { return fmt.Sprintf(" fragment F%d on Query { __typename ...F%d }", i, i+1) }) +
			" fragment F150 on Query { __typename }", nil},
		{"300 arguments that are not known", true, "{" + repeated(300, func(i int) string { return fmt.Sprintf(" users(frist%d:1){pageInfo{hasNextPage}}", i) }) + "}", nil},
		{"255 KB of comments", true, "{ __typename }" + strings.Repeat("\n#", large/3), nil},
		{"one name of 255 KB", true, "{ " + strings.Repeat("x", large) + " }", nil},
		{"an alias of 255 KB", true, "{ " + strings.Repeat("x", large) + ": __typename }", nil},
		{"one string of 255 KB", true, `{ user(id: "` + strings.Repeat("x", large) + `") { id } }`, nil},
		{"a list of 2,300 numbers", true, "{ nodes(ids: [" + strings.Repeat("1 ", 2300) + "]) { id } }", nil},
		{"an object 600 deep", true, "{ users(search: " + strings.Repeat("{a:", 600) + "1" + strings.Repeat("}", 600) + ") { nodes { id } } }", nil},
		{"variables: a list of 60,000", true, "query ($v: [ID!]!) { nodes(ids: $v) { id } }", list(60_000, "x")},
		{"variables: lists 9,000 deep", true, user, deep("[", "1", "]", 9_000)},
		{"variables: objects 9,000 deep", true, user, deep(`{"a":`, "1", "}", 9_000)},
		{"errors in 2,000 fields", true, "{" + repeated(29, func(i int) string {
			return fmt.Sprintf(" u%d: users(first: 60) { nodes { id } }", i)
		}) + "}", nil},
		{"an error for each of 100 nodes", false, "query ($v: [ID!]!) { nodes(ids: $v) { id } }", list(100, "nonsense")},
		{"98 messages of 4,000 emoji", false, page("id content"), nil},
		{"98 messages of 4,000 emoji, nested once", false, page(fmt.Sprintf("conversation { messages(last: %d) { nodes { content } } }", emojiMessages)), nil},
		{"98 long messages of each of 8 conversations", false, fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { messages(last: 98) { nodes { content } } } } }", quoted(a.ids[:longConversations])), nil},
		{"the same, without their content", false, fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { messages(last: 98) { nodes { id } } } } }", quoted(a.ids[:longConversations])), nil},
		{"nearly 12,000 fields", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 99) { nodes { conversation { messages(last: 39) { nodes { id seq } } } } } } }`, common), nil},
		{"nearly 12,000 fields, 29 of them aliases", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 99) { nodes { conversation { messages(last: 3) { nodes { %s } } } } } } }`, common, repeated(29, fields)), nil},
		{"9,604 objects of one field", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 98) { nodes { conversation { messages(last: 98) { nodes { id } } } } } } }`, common), nil},
		{"a subscription of 9,604 fields", false, fmt.Sprintf(`subscription { messageAdded(conversationId: %q) { conversation { messages(last: 98) { nodes { conversation { messages(last: 48) { nodes { id } } } } } } } }`, common), nil},
		{"search of a common word", false, `{ searchMessages(query: "common", first: 100) { nodes { id content } } }`, nil},
		{"100 nodes with pages in them", false, fmt.Sprintf("{ nodes(ids: %s) { ... on Conversation { members(first: 60) { nodes { user { id } } } } } }", quoted(a.ids[:100])), nil},
		{"aliases of 250 bytes × 9,900", false, fmt.Sprintf(`{ conversation(id: %q) { messages(last: 99) { nodes { conversation { messages(last: 99) { nodes { %s: __typename } } } } } } }`,
			common, strings.Repeat("x", 250)), nil},
	}
}

const introspectionQuery = `query IntrospectionQuery { __schema { queryType { name } mutationType { name } subscriptionType { name }
	types { ...FullType } directives { name description locations args { ...InputValue } } } }
	fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name description args { ...InputValue }
	type { ...TypeRef } isDeprecated deprecationReason } inputFields { ...InputValue } interfaces { ...TypeRef }
	enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason } possibleTypes { ...TypeRef } }
	fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue }
	fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } }`

func (r dear) body() ([]byte, error) {
	return json.Marshal(object{"query": r.query, "variables": object{"v": r.variables}})
}

// token is whose request it is.
func (a *abuser) token(r dear) string {
	if r.anonymous {
		return ""
	}
	return a.tokens[0]
}

func (a *abuser) row(ctx context.Context, r dear) ([]string, error) {
	body, err := r.body()
	if err != nil {
		return nil, err
	}
	best, most := time.Duration(0), int64(0)
	var said []byte
	for i := range 3 {
		before, err := a.fresh(ctx)
		if err != nil {
			return nil, err
		}
		begun, err := processCPU(a.pid())
		if err != nil {
			return nil, err
		}
		if said, err = postAny(ctx, a.url, a.token(r), body); err != nil {
			return nil, err
		}
		spent, err := processCPU(a.pid())
		if err != nil {
			return nil, err
		}
		peak, err := peakMemory(a.pid())
		if err != nil {
			return nil, err
		}
		if took := spent - begun; i == 0 || took < best {
			best = took
		}
		most = max(most, peak-before)
	}
	by := "a member"
	if r.anonymous {
		by = "anonymous"
	}
	return []string{
		r.name, by, kilobytes(float64(len(body))), duration(best), megabytes(most), kilobytes(float64(len(said))), answeredWith(said),
	}, nil
}

// fresh frees the memory of the server and resets its peak.
func (a *abuser) fresh(ctx context.Context) (before int64, err error) {
	if err := a.debug(ctx, "/free", ""); err != nil {
		return 0, err
	}
	const resetPeak = "5" // proc_pid_clear_refs(5)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", a.pid()), []byte(resetPeak), 0o600); err != nil {
		return 0, err
	}
	return peakMemory(a.pid())
}

// peakMemory is the most memory that a process has held.
func peakMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

// answeredWith is what an answer says, in few words.
func answeredWith(said []byte) string {
	var a struct {
		Data   json.RawMessage
		Errors []struct {
			Message    string
			Extensions struct{ Code string }
		}
	}
	if err := json.Unmarshal(said, &a); err != nil {
		return "no JSON"
	}
	if len(a.Errors) == 0 {
		return "data"
	}
	return fmt.Sprintf("%d × %s", len(a.Errors), a.Errors[0].Extensions.Code)
}

// postAny is post for whatever is answered.
func postAny(ctx context.Context, url, token string, body []byte) (said []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := poster.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	return io.ReadAll(response.Body)
}

// crowdOf is what many connections ask at once.
type crowdOf struct {
	name string
	run  func(ctx context.Context, counts *outcomes) error
}

// outcomes counts answers by what they are.
type outcomes struct {
	mu sync.Mutex
	by map[string]int
}

func (o *outcomes) add(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.by[what]++
}

func (o *outcomes) String() string {
	var b []string
	for what, n := range o.by {
		b = append(b, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(b)
	return strings.Join(b, ", ")
}

// crowds are the rows of many connections.
func (a *abuser) crowds() []crowdOf {
	var all []crowdOf
	for _, r := range a.requests() {
		switch r.name {
		case "98 messages of 4,000 emoji", "nearly 12,000 fields", "introspection, as tools ask", "98 long messages of each of 8 conversations",
			"a list of 2,300 numbers", "255 KB of comments":
			all = append(all,
				crowdOf{r.name + ", over HTTP", a.overHTTP(r)},
				crowdOf{fmt.Sprintf("%s, %d on each WebSocket", r.name, abuseFollowed), a.overSockets(r.unlike, false)},
				crowdOf{fmt.Sprintf("%s, %d on each WebSocket that reads nothing", r.name, abuseFollowed), a.overSockets(r.same, true)})
		}
	}
	return all
}

func (a *abuser) overHTTP(r dear) func(context.Context, *outcomes) error {
	return func(ctx context.Context, counts *outcomes) error {
		return together(ctx, abuseConns, func(ctx context.Context, i int) error {
			for n := range abuseEach {
				body, err := r.unlike(i*abuseEach + n).body()
				if err != nil {
					return err
				}
				said, err := postAny(ctx, a.url, a.token(r), body)
				if err != nil {
					counts.add("cut off")
					continue
				}
				counts.add(answeredWith(said))
			}
			return nil
		})
	}
}

// unlike is the same request, in a document that is not known.
func (r dear) unlike(i int) dear {
	r.query = strings.Replace(r.query, "{", fmt.Sprintf("{ # %d\n", i), 1)
	if r.query[0] != '{' {
		r.query = fmt.Sprintf("# %d\n", i) + r.query
	}
	return r
}

// patienceOfCrowd is how long a connection waits for an answer that may not come.
const patienceOfCrowd = 10 * time.Second

func (r dear) same(int) dear { return r }

func (a *abuser) overSockets(request func(i int) dear, stalls bool) func(context.Context, *outcomes) error {
	return func(ctx context.Context, counts *outcomes) error {
		return together(ctx, abuseConns, func(_ context.Context, i int) error {
			receive := 0
			if stalls {
				receive = stallReceives
			}
			c, err := dial(a.url, receive)
			if err != nil {
				return err
			}
			defer c.close()
			init := object{"type": "connection_init", "payload": object{}}
			if !request(0).anonymous {
				init["payload"] = object{"Authorization": "Bearer " + a.tokens[0]}
			}
			if err := c.say(init); err != nil {
				return err
			}
			if _, err := c.message(); err != nil {
				return err
			}
			said := make(chan struct{})
			defer func() {
				_ = syscall.Shutdown(c.fd, syscall.SHUT_RDWR)
				<-said
			}()
			go func() {
				defer close(said)
				for n := range abuseFollowed {
					asked := request(i*abuseFollowed + n)
					err := c.say(object{"id": fmt.Sprint(n), "type": "subscribe", "payload": object{
						"query": asked.query, "variables": object{"v": asked.variables},
					}})
					if err != nil {
						return
					}
				}
			}()
			if stalls {
				time.Sleep(patienceOfCrowd)
				return nil
			}
			for left := abuseFollowed; left > 0; {
				payload, err := c.message()
				if err != nil {
					counts.add("cut off")
					return nil
				}
				if len(payload) == 0 {
					continue // a ping
				}
				var m struct {
					Type    string
					Payload json.RawMessage
				}
				if json.Unmarshal(payload, &m) != nil {
					counts.add("closed")
					return nil
				}
				switch m.Type {
				case "next":
					counts.add(answeredWith(m.Payload))
				case "error":
					counts.add(answeredWith([]byte(`{"errors":` + string(m.Payload) + `}`)))
					left--
				case "complete":
					left--
				}
			}
			return nil
		})
	}
}

// say sends a message, in frames that a client here can write.
func (c *conn) say(v any) error {
	message, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.write(opText, message)
}

// together calls fn with every number below n, all at once.
func together(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	problems := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { problems[i] = fn(ctx, i) })
	}
	all.Wait()
	return errors.Join(problems...)
}

func (a *abuser) crowd(ctx context.Context, r crowdOf) ([]string, error) {
	before, err := a.fresh(ctx)
	if err != nil {
		return nil, err
	}
	counts := &outcomes{by: map[string]int{}}
	if err := r.run(ctx, counts); err != nil {
		return nil, err
	}
	peak, err := peakMemory(a.pid())
	if err != nil {
		return nil, err
	}
	return []string{r.name, megabytes(peak - before), counts.String()}, nil
}
