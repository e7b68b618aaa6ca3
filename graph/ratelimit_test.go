package graph_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/auth"
	"parley/graph"
	"parley/migrations"
	"parley/model"
	"parley/ratelimit"
	"parley/store"
	"parley/store/storetest"
)

// limitedBy has the buckets that count a field or, without any, why none is needed.
type limitedBy struct {
	// try is the field with ids that do not exist: an operation is counted before its look-ups.
	try     string
	buckets []ratelimit.Bucket
	why     string
}

func by(try string, buckets ...ratelimit.Bucket) limitedBy {
	return limitedBy{try: try, buckets: buckets}
}

func because(why string) limitedBy { return limitedBy{why: why} }

// limitedFields has every field of Mutation and Query.
func limitedFields() map[string]limitedBy {
	const (
		byAuth = "auth counts it by address, session or account: see TestLimits there"
		reads  = "it reads by id, or a page of what is the viewer's; answers are bounded"
	)
	c, u, m := model.NewConversationID().String(), model.NewUserID().String(), model.NewMessageID().
		String()
	in := func(field, format string, args ...any) string {
		return fmt.Sprintf("mutation { %s(input: {%s}) { __typename } }", field,
			fmt.Sprintf(format, args...))
	}
	return map[string]limitedBy{
		"Mutation.register":                 because(byAuth),
		"Mutation.login":                    because(byAuth),
		"Mutation.refreshSession":           because(byAuth),
		"Mutation.requestPasswordReset":     because(byAuth),
		"Mutation.resetPassword":            because(byAuth),
		"Mutation.verifyEmail":              because(byAuth),
		"Mutation.changeEmail":              because(byAuth),
		"Mutation.changePassword":           because(byAuth),
		"Mutation.requestEmailVerification": because(byAuth),
		"Mutation.deleteAccount":            because(byAuth),
		"Mutation.revokeSession":            because(byAuth),
		"Mutation.revokeOtherSessions":      because(byAuth),
		"Mutation.logout": because(
			"it ends the session that asks, so it works once"),

		"Mutation.updateProfile": by(in("updateProfile", `about: "x"`), ratelimit.Profile),
		"Mutation.updateSettings": by(in("updateSettings", `showPresence: true`),
			ratelimit.Profile),

		"Mutation.createConversation": by(in("createConversation", `members: [{userId: %q}]`, u),
			ratelimit.Conversations, ratelimit.Members),
		"Mutation.openDirectConversation": by(
			in("openDirectConversation", `userId: %q`, u), ratelimit.Conversations),
		"Mutation.addMembers": by(in("addMembers",
			`conversationId: %q, members: [{userId: %q}]`, c, u), ratelimit.Members),
		"Mutation.renameConversation": by(in("renameConversation", `conversationId: %q, title: "x"`,
			c), ratelimit.Changes),
		"Mutation.updateConversationSettings": by(
			in("updateConversationSettings", `conversationId: %q, membersMayRename: true`, c),
			ratelimit.Changes),
		"Mutation.removeMember": by(in("removeMember", `conversationId: %q, userId: %q`, c, u),
			ratelimit.Changes),
		"Mutation.changeMemberRole": by(
			in("changeMemberRole", `conversationId: %q, userId: %q, role: ADMIN`, c, u),
			ratelimit.Changes),
		"Mutation.transferOwnership": by(in("transferOwnership", `conversationId: %q, userId: %q`,
			c, u), ratelimit.Changes),
		"Mutation.leaveConversation": by(in("leaveConversation", `conversationId: %q`, c),
			ratelimit.Changes),

		"Mutation.sendMessage": by(in("sendMessage", `conversationId: %q, content: "x"`, c),
			ratelimit.Messages),
		"Mutation.editMessage": by(in("editMessage", `messageId: %q, content: "x"`, m),
			ratelimit.Edits),
		"Mutation.deleteMessage": by(in("deleteMessage", `messageId: %q`, m), ratelimit.Edits),
		"Mutation.addReaction": by(in("addReaction", `messageId: %q, emoji: "👍"`, m),
			ratelimit.Reactions),
		"Mutation.removeReaction": by(in("removeReaction", `messageId: %q, emoji: "👍"`, m),
			ratelimit.Reactions),

		"Mutation.markRead": by(in("markRead", `conversationId: %q, seq: 1`, c),
			ratelimit.State),
		"Mutation.updateMembership": by(in("updateMembership", `conversationId: %q, pinned: true`,
			c), ratelimit.State),
		"Mutation.saveDraft": by(in("saveDraft", `conversationId: %q, content: "x"`, c),
			ratelimit.State),
		"Mutation.setTyping": by(in("setTyping", `conversationId: %q`, c), ratelimit.State),

		"Query.users": by(`{ users(search: "x") { nodes { id } } }`, ratelimit.Searches),
		"Query.searchMessages": by(`{ searchMessages(query: "x") { edges { cursor } } }`,
			ratelimit.Searches),
		"Query.viewer":       because(reads),
		"Query.node":         because(reads),
		"Query.nodes":        because(reads),
		"Query.user":         because(reads),
		"Query.conversation": because(reads),
	}
}

// askLimited is do, and returns the header, too.
func (s *api) askLimited(token, query string) (answer, http.Header) {
	s.t.Helper()
	body := mustJSON(s.t, map[string]any{"query": query})
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url,
		strings.NewReader(string(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = http.Header{
		"Authorization": bearer(token), "Content-Type": {"application/json"}, "Origin": {s.url},
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var a answer
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		s.t.Fatal(err)
	}
	return a, res.Header
}

// shownLimits are the header fields about rates.
func shownLimits(h http.Header) string {
	return strings.Join([]string{
		h.Get("RateLimit-Policy"), h.Get("RateLimit"),
		h.Get("Retry-After"),
	}, " ")
}

// mustLimit serves with rate limits. The test moves their clock.
func mustLimit(
	t *testing.T, rates ratelimit.Rates, change ...func(*graph.Options, *auth.Options),
) (*api, *storetest.Clock) {
	t.Helper()
	clock := storetest.NewClock()
	limits := ratelimit.NewAccounts(ratelimit.AccountsOptions{Rates: rates, Now: clock.Now})
	return mustServeLimited(t, storetest.MustSQLite(t), limits, change...), clock
}

// A new field has to be listed with the buckets that count it, or with the reason why none does.
func TestEveryMutationAndSearchIsLimited(t *testing.T) {
	t.Parallel()
	fields := limitedFields()
	schema := graph.NewExecutableSchema(graph.Config{}).Schema()
	there := map[string]bool{}
	for _, f := range slices.Concat(schema.Mutation.Fields, schema.Query.Fields) {
		if strings.HasPrefix(f.Name, "__") {
			continue
		}
		name := "Mutation." + f.Name
		if schema.Query.Fields.ForName(f.Name) != nil {
			name = "Query." + f.Name
		}
		there[name] = true
		if row := fields[name]; (len(row.buckets) == 0) == (row.why == "") {
			t.Errorf("%s needs a bucket, or a reason why it has none", name)
		}
	}
	for name := range fields {
		if !there[name] {
			t.Errorf("%s is not in the schema", name)
		}
	}
	for _, bucket := range ratelimit.Buckets() {
		t.Run(bucket.String(), func(t *testing.T) {
			t.Parallel()
			var rates ratelimit.Rates
			rates[bucket] = ratelimit.Rate{Burst: 1, Every: time.Hour}
			s, clock := mustLimit(t, rates)
			ann := s.mustRegister("ann")
			counted := 0
			for name, row := range fields {
				if row.try == "" {
					continue
				}
				clock.Forward(time.Hour)
				_, first := s.askLimited(ann.token, row.try)
				a, second := s.askLimited(ann.token, row.try)
				policy := fmt.Sprintf("%q;q=1;w=3600 %q;r=0;t=3600 ", bucket, bucket)
				refused := len(a.Errors) == 1 && a.Errors[0].code() == "RATE_LIMITED" &&
					a.Errors[0].Extensions["retryAfterMs"] == 3.6e6
				if !slices.Contains(row.buckets, bucket) {
					if refused || shownLimits(first) != "  " || shownLimits(second) != "  " {
						t.Errorf("%s is counted in %s: %v", name, bucket, a)
					}
					continue
				}
				counted++
				if !refused {
					t.Errorf("%s is not refused: %v", name, a)
				}
				if shownLimits(first) != policy || shownLimits(second) != policy+"3600" {
					t.Errorf("%s: the header says %q, and then %q", name, shownLimits(first),
						shownLimits(second))
				}
			}
			if counted == 0 {
				t.Error("nothing is counted")
			}
		})
	}
}

// Each field of a document is counted, and the header shows the bucket that is nearest to its end.
// Scripts of other origins may read it.
func TestTheHeaderShowsTheNearestEnd(t *testing.T) {
	t.Parallel()
	s, clock := mustLimit(t, ratelimit.Rates{
		ratelimit.Reactions: {Burst: 3, Every: time.Minute},
		ratelimit.State:     {Burst: 10, Every: time.Second},
	}, withOrigins("*"))
	ann := s.mustRegister("ann")
	typing := fmt.Sprintf(`setTyping(input: {conversationId: %q}) { userErrors { code } }`,
		model.NewConversationID())
	react := fmt.Sprintf(`addReaction(input: {messageId: %q, emoji: "👍"}) { userErrors { code } }`,
		model.NewMessageID())
	for _, step := range []struct {
		query, want string
		refused     int
		wait        time.Duration
	}{
		{query: "mutation { " + typing + " }", want: `"state";q=10;w=10 "state";r=9;t=1 `},
		{
			query: "mutation { a: " + typing + " b: " + typing + " c: " + react + " }",
			want:  `"reactions";q=3;w=180 "reactions";r=2;t=60 `,
		},
		{
			query: "mutation { a: " + react + " b: " + react + " c: " + react + " d: " + typing +
				" }",
			want: `"reactions";q=3;w=180 "reactions";r=0;t=60 60`, refused: 1,
		},
		{
			query:   "mutation { " + react + " }",
			want:    `"reactions";q=3;w=180 "reactions";r=0;t=60 60`,
			refused: 1,
		},
		{
			query: "mutation { " + react + " }",
			want:  `"reactions";q=3;w=180 "reactions";r=0;t=60 `,
			wait:  time.Minute,
		},
		{query: "{ viewer { email } }", want: "  "},
	} {
		clock.Forward(step.wait)
		a, header := s.askLimited(ann.token, step.query)
		if got := shownLimits(header); got != step.want {
			t.Errorf("%s: the header says %q, want %q", step.query, got, step.want)
		}
		refused := 0
		for _, e := range a.Errors {
			if e.code() == "RATE_LIMITED" {
				refused++
			}
		}
		if refused != step.refused {
			t.Errorf("%s: %v", step.query, a)
		}
	}
	_, header := s.askLimited(ann.token, "{ viewer { email } }")
	exposed := strings.ToLower(header.Get("Access-Control-Expose-Headers"))
	for _, name := range []string{"ratelimit", "ratelimit-policy", "retry-after"} {
		if !slices.Contains(strings.Split(exposed, ", "), name) {
			t.Errorf("scripts may read %q, and not %s", exposed, name)
		}
	}
}

// Over a WebSocket, only the error has the time of the next try.
func TestRatesOverAWebSocket(t *testing.T) {
	t.Parallel()
	s, clock := mustLimit(t, ratelimit.Rates{ratelimit.Messages: {Burst: 1, Every: time.Minute}})
	ann, ben := s.mustRegister("ann"), s.mustRegister("ben")
	id := s.mustConversation(ann, ben)
	c := s.mustDial(ann.token, nil)
	vars := map[string]any{"in": map[string]any{
		"conversationId": id, "content": "x",
		"idempotencyKey": "one",
	}}
	send := func() answer {
		t.Helper()
		var a answer
		if err := json.Unmarshal(c.subscribe(sendMessage, vars).frame().Payload, &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	first := send().str(t, "sendMessage.message.id")
	if a := send(); len(a.Errors) != 1 || a.Errors[0].code() != "RATE_LIMITED" ||
		a.Errors[0].Extensions["retryAfterMs"] != 6e4 {
		t.Fatalf("the second: %v", a)
	}
	clock.Forward(time.Minute)
	if again := send().str(t, "sendMessage.message.id"); again != first {
		t.Errorf("after retryAfterMs, the repetition is %s, want %s", again, first)
	}
}

// The buckets of auth by address and session are shown, too. Those by account are not: they would
// show the attempts of others. If these are too many, no mail is sent, and the answer does not show
// it.
func TestTheHeaderAboutSigningIn(t *testing.T) {
	t.Parallel()
	db, err := store.Open(t.Context(), storetest.SQLiteURL(t),
		store.Options{Now: storetest.NewClock().Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := migrations.Up(t.Context(), db.DB); err != nil {
		t.Fatal(err)
	}
	s := mustServe(t, db, func(_ *graph.Options, o *auth.Options) { o.RateLimits = true })
	ann := s.mustRegister("ann")
	login := `mutation { login(input: {email: "ann@example.org", password: "wrong password"}) {
			userErrors { code } } }`
	if _, h := s.askLimited("", login); shownLimits(h) != `"login";q=100;w=100 "login";r=99;t=1 ` {
		t.Errorf("a login: %q", shownLimits(h))
	}
	for range 3 {
		s.askLimited("", login)
	}
	if a, h := s.askLimited("", login); !slices.Equal(a.codes(), []string{"RATE_LIMITED"}) ||
		h.Get("Retry-After") != "2" {
		t.Errorf("after four wrong passwords: %v, %q", a, shownLimits(h))
	}
	reset := `mutation { requestPasswordReset(input: {email: %q}) { userErrors { code } } }`
	for i := range 10 { // five mails are sent
		name := []string{"ann@example.org", "unknown@example.org"}[i%2]
		a, h := s.askLimited("", fmt.Sprintf(reset, name))
		want := fmt.Sprintf(`"mail";q=20;w=1200 "mail";r=%d;t=%d `, 19-i, 60*(i+1))
		if len(a.codes()) != 0 || shownLimits(h) != want {
			t.Errorf("reset %d: %v, %q", i, a, shownLimits(h))
		}
	}
	if _, h := s.askLimited(ann.token,
		`mutation { revokeOtherSessions { userErrors { code } } }`); shownLimits(
		h) != `"sessions";q=100;w=300 "sessions";r=99;t=3 ` {
		t.Errorf("ending sessions: %q", shownLimits(h))
	}
	if _, h := s.askLimited(ann.token,
		`mutation { requestEmailVerification { userErrors { code } } }`); shownLimits(h) != "  " {
		t.Errorf("a verification: %q", shownLimits(h))
	}
}
