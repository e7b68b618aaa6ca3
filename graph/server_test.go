package graph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"

	"parley/auth"
	"parley/chat"
	"parley/feed"
	"parley/graph"
	"parley/live"
	"parley/mail"
	"parley/ratelimit"
	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// api is a server of the whole graph on a fresh database.
type api struct {
	t     testing.TB
	url   string
	graph *graph.Server
	auth  *auth.Service
	log   *syncBuffer
}

// mustServe starts a server; change may alter its settings.
func mustServe(t testing.TB, db *store.DB, change ...func(*graph.Options, *auth.Options)) *api {
	t.Helper()
	return mustServeRunning(t, db, nil, (*auth.Service).Run, change...)
}

// mustServeLimited is mustServe with rate limits of accounts.
func mustServeLimited(
	t testing.TB, db *store.DB, limits *ratelimit.Accounts,
	change ...func(*graph.Options, *auth.Options),
) *api {
	t.Helper()
	return mustServeRunning(t, db, limits, (*auth.Service).Run, change...)
}

// mustServeRunning is mustServe with limits, and with another function in place of Service.Run,
// which looks at revocations.
func mustServeRunning(
	t testing.TB, db *store.DB, limits *ratelimit.Accounts,
	run func(*auth.Service, context.Context),
	change ...func(*graph.Options, *auth.Options),
) *api {
	t.Helper()
	log := new(syncBuffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	opts := graph.Options{Introspection: true, Log: logger}
	key, err := auth.SecretKey(bytes.Repeat([]byte("k"), auth.MinKeyLen))
	if err != nil {
		t.Fatal(err)
	}
	outbox, err := mail.New(db, mail.Options{From: "Parley <parley@example.org>", Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	const reconcileEvery = 50 * time.Millisecond
	feeds := feed.New(db, feed.Options{ReconcileEvery: reconcileEvery, Log: logger})
	lives := live.New(db, feeds, live.Options{
		ReconcileEvery: reconcileEvery, Limits: limits, Log: logger,
	})
	chatService := chat.New(db, feeds, lives, chat.Options{Limits: limits, Log: logger})
	authOpts := auth.Options{
		Accounts: limits, Mail: outbox, Log: logger,
		OnDelete: lives.EndPresence, CleanUp: chatService.CleanUpAccount,
		OnSettings: lives.SettingsChanged,
		Link: func(action, token string) string {
			return "https://chat.example.org/" + action + "#token=" + token
		},
		Keys: []auth.Key{key}, Issuer: "parley", AccessTTL: time.Hour, RefreshTTL: time.Hour,
		Argon2: &argon2id.Params{
			Memory: 64, Iterations: 1, Parallelism: 1, SaltLength: 16, KeyLength: 32,
		},
	}
	for _, fn := range change {
		fn(&opts, &authOpts)
	}
	authService, err := auth.New(db, authOpts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { feeds.Run(ctx) })
	running.Go(func() { lives.Run(ctx) })
	running.Go(func() { chatService.Run(ctx) })
	running.Go(func() { run(authService, ctx) })
	running.Go(func() { outbox.Run(ctx) })

	server := graph.New(graph.Services{
		Auth: authService, Chat: chatService, Live: lives, Feed: feeds,
	}, opts)
	listening := httptest.NewServer(server)
	t.Cleanup(func() {
		server.Drain(context.Background())
		listening.Close()
		cancel()
		running.Wait()
		if strings.Contains(log.String(), "internal error") && !t.Failed() &&
			!strings.Contains(t.Name(), "Internal") {
			t.Errorf("an internal error happened:\n%s", log)
		}
	})
	return &api{t: t, url: listening.URL, graph: server, auth: authService, log: log}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// answer is a GraphQL response.
type answer struct {
	Data   map[string]any
	Errors []answerError
}

type answerError struct {
	Message    string
	Path       []any
	Extensions map[string]any
}

func (e answerError) code() string {
	code, _ := e.Extensions["code"].(string)
	return code
}

// codes are those of the errors and of the userErrors of the only root field, with their paths.
func (a answer) codes() []string {
	var codes []string
	for _, e := range a.Errors {
		codes = append(codes, e.code())
	}
	for _, payload := range a.Data {
		fields, _ := payload.(map[string]any)
		list, _ := fields["userErrors"].([]any)
		for _, e := range list {
			userError := e.(map[string]any)
			var path []string
			for _, step := range userError["path"].([]any) {
				path = append(path, step.(string))
			}
			codes = append(codes, userError["code"].(string)+" "+strings.Join(path, "."))
		}
	}
	return codes
}

// at walks into the data: "conversation.members.nodes.0.role".
func (a answer) at(t testing.TB, path string) any {
	t.Helper()
	var v any = a.Data
	for step := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[step]
		case []any:
			v = in[int(step[0]-'0')]
		default:
			t.Fatalf("nothing at %s of %s in %+v", step, path, a)
		}
	}
	return v
}

func (a answer) str(t testing.TB, path string) string {
	t.Helper()
	s, ok := a.at(t, path).(string)
	if !ok {
		t.Fatalf("no text at %s in %+v", path, a)
	}
	return s
}

// do sends one operation over HTTP.
func (s *api) do(token, query string, variables map[string]any) answer {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		s.t.Fatal(err)
	}
	status, raw := s.post(body, http.Header{
		"Authorization": bearer(token),
		"Content-Type":  {"application/json"},
	})
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		s.t.Fatalf("%d: %s: %v", status, raw, err)
	}
	return a
}

func bearer(token string) []string {
	if token == "" {
		return nil
	}
	return []string{"Bearer " + token}
}

func (s *api) post(body []byte, header http.Header) (status int, answer []byte) {
	s.t.Helper()
	return s.request(http.MethodPost, "", body, header)
}

func (s *api) request(
	method, query string, body []byte, header http.Header,
) (status int, answer []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+query,
		bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, answer
}

// person is a registered user with a session.
type person struct {
	id, token, refresh string
}

func (s *api) mustRegister(nickname string) person {
	s.t.Helper()
	a := s.do("", `mutation($in: RegisterInput!) { register(input: $in) {
		tokens { accessToken refreshToken } viewer { user { id } }
		userErrors { code message path } } }`,
		map[string]any{"in": map[string]any{
			"email": nickname + "@example.org", "nickname": nickname,
			"password": "a password of " + nickname,
		}})
	return person{
		id: a.str(s.t, "register.viewer.user.id"), token: a.str(s.t, "register.tokens.accessToken"),
		refresh: a.str(s.t, "register.tokens.refreshToken"),
	}
}

// mustConversation creates a conversation and returns its id.
func (s *api) mustConversation(owner person, others ...person) string {
	s.t.Helper()
	members := []any{}
	for _, o := range others {
		members = append(members, map[string]any{"userId": o.id})
	}
	a := s.do(owner.token, createConversation,
		map[string]any{"in": map[string]any{"members": members}})
	return a.str(s.t, "createConversation.conversation.id")
}

func (s *api) mustSend(from person, conversation, content string) {
	s.t.Helper()
	a := s.do(from.token, sendMessage,
		map[string]any{"in": map[string]any{"conversationId": conversation, "content": content}})
	a.str(s.t, "sendMessage.message.id")
}

const (
	createConversation = `mutation($in: CreateConversationInput!) { createConversation(input: $in) {
		conversation { id title memberCount owner { id } viewerMember { role }
		members { nodes { user { id nickname } role } } }
		userErrors { code message path } } }`
	sendMessage = `mutation($in: SendMessageInput!) { sendMessage(input: $in) {
		message { id seq content author { id } } userErrors { code message path } } }`
	messageAdded = `subscription($id: ID!, $after: Int) {
		messageAdded(conversationId: $id, afterSeq: $after) {
		seq content author { nickname } } }`
)
