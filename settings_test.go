package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"parley/config"
)

// ask sends an operation to a running server, and returns the body of the answer.
func ask(t *testing.T, base, token, accept, query string) io.ReadCloser {
	t.Helper()
	body, err := json.Marshal(map[string]string{"query": query})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/graphql",
		strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", accept)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res.Body
}

// answerOf returns the value at a path of an answer's data, as text.
func answerOf(t *testing.T, body io.Reader, path string) string {
	t.Helper()
	var answer map[string]any
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	at := answer["data"]
	for name := range strings.SplitSeq(path, ".") {
		fields, ok := at.(map[string]any)
		if !ok {
			t.Fatalf("nothing at %s in %v", path, answer)
		}
		at = fields[name]
	}
	return fmt.Sprint(at)
}

// mustRegister registers an account by its nickname, and returns its access token and its id.
func mustRegister(t *testing.T, base, nickname string) (token, id string) {
	t.Helper()
	input := fmt.Sprintf(
		`{email: "%[1]s@example.org", nickname: %[1]q, password: "of %[1]s alone"}`, nickname)
	var answer struct {
		Data struct {
			Register struct {
				Tokens struct{ AccessToken string }
				Viewer struct{ User struct{ ID string } }
			}
		}
	}
	body := ask(t, base, "", "application/json",
		`mutation { register(input: `+input+`) { tokens { accessToken } viewer { user { id } } } }`)
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Data.Register.Tokens.AccessToken, answer.Data.Register.Viewer.User.ID
}

// A change of an account's settings reaches streams at once, because auth calls chat: this server
// never reconciles.
func TestAccountSettingsReachStreamsAtOnce(t *testing.T) {
	t.Parallel()
	base, _, _ := mustStart(t, "--data-dir="+t.TempDir(), "--reconcile-every=1h")
	ann, _ := mustRegister(t, base, "ann")
	ben, benID := mustRegister(t, base, "ben")
	id := answerOf(t, ask(t, base, ann, "application/json",
		fmt.Sprintf(
			`mutation { openDirectConversation(input: {userId: %q}) { conversation { id } } }`,
			benID)),
		"openDirectConversation.conversation.id")
	events := bufio.NewScanner(ask(t, base, ann, "text/event-stream",
		fmt.Sprintf(`subscription { readReceipts(conversationId: %q) { lastReadSeq } }`, id)))
	want := func(want string) {
		t.Helper()
		for events.Scan() {
			if data, ok := strings.CutPrefix(events.Text(), "data: "); ok {
				if got := answerOf(t, strings.NewReader(data),
					"readReceipts.lastReadSeq"); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
				return
			}
		}
		t.Fatalf("got the end (%v), want %s", events.Err(), want)
	}
	want("1")
	answerOf(t, ask(t, base, ben, "application/json",
		`mutation { updateSettings(input: {sendReadReceipts: false}) { settings { sendReadReceipts } } }`,
	), "updateSettings.settings")
	want("<nil>")
}

// PARLEY_MAX_OPERATIONS limits the operations on a shared stream.
func TestTheLimitOfOperationsIsASetting(t *testing.T) {
	t.Parallel()
	base, _, _ := mustStart(t, "--data-dir="+t.TempDir(), "--max-operations=2")
	user, _ := mustRegister(t, base, "ann")
	send := func(method, stream, accept, body string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+"/graphql?token="+stream,
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+user)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	stream, err := io.ReadAll(send(http.MethodPut, "", "*/*", "").Body)
	if err != nil {
		t.Fatal(err)
	}
	if res := send(http.MethodGet, string(stream), "text/event-stream",
		""); res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	for i, want := range []int{
		http.StatusAccepted, http.StatusAccepted, http.StatusTooManyRequests,
	} {
		body := fmt.Sprintf(
			`{"query": "subscription { conversationAdded { id } }", "extensions": {"operationId": "%d"}}`, i)
		if res := send(http.MethodPost, string(stream), "*/*", body); res.StatusCode != want {
			t.Errorf("operation %d: %s", i, res.Status)
		}
	}
}

// PARLEY_MAX_CONVERSATIONS and the PARLEY_RATE_… settings have an effect.
func TestRatesAreSettings(t *testing.T) {
	t.Parallel()
	folder := "--data-dir=" + t.TempDir()
	base, _, stop := mustStart(t, folder, "--max-conversations=1")
	token, id := mustRegister(t, base, "ann")
	for _, want := range []string{`"userErrors":[]`, `LIMIT_REACHED`} {
		_, other := mustRegister(t, base, fmt.Sprintf("ben%d", len(want)))
		got, err := io.ReadAll(ask(t, base, token, "application/json",
			fmt.Sprintf(
				`mutation { openDirectConversation(input: {userId: %q}) { userErrors { code } } }`,
				other)))
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	if status := stop(); status != 0 {
		t.Fatal(status)
	}
	for flags, limited := range map[string]bool{
		"--rate-profile=1/1h":                       true,
		"--rate-profile=off":                        false,
		"--rate-profile=1/1h --rate-limits=false":   false,
		"--rate-profile=1/1h --rate-exempt=" + id:   false,
		"--rate-messages=1/1h --rate-searches=1/1h": false,
	} {
		base, _, stop := mustStart(t, append([]string{folder}, strings.Fields(flags)...)...)
		for _, want := range []bool{false, limited} {
			got, err := io.ReadAll(ask(t, base, token, "application/json",
				`mutation { updateProfile(input: {about: "x"}) { userErrors { code } } }`))
			if err != nil || strings.Contains(string(got), "RATE_LIMITED") != want {
				t.Errorf("%s: got %s, %v", flags, got, err)
			}
		}
		stop()
	}
}

// The README has every setting once, with its default.
func TestReadmeHasTheDefaults(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // the default by setting
	quoted := regexp.MustCompile("`([^`]*)`")
	for line := range strings.Lines(string(readme)) {
		if !strings.HasPrefix(line, "| `PARLEY_") {
			continue
		}
		cells := strings.Split(line, "|") // the first is empty
		defaults := quoted.FindAllStringSubmatch(cells[2], -1)
		for i, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
			if _, twice := documented[name[1]]; twice {
				t.Errorf("%s is there twice", name[1])
			}
			documented[name[1]] = ""
			if i < len(defaults) {
				documented[name[1]] = defaults[i][1]
			}
		}
	}
	parser, err := kong.New(new(commandLine), kong.DefaultEnvars("PARLEY"), config.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range parser.Model.Flags {
		if len(flag.Envs) != 1 { // --help
			continue
		}
		want := flag.Default
		if flag.IsBool() && want == "" {
			want = "false"
		}
		got, found := documented[flag.Envs[0]]
		delete(documented, flag.Envs[0])
		switch {
		case !found:
			t.Errorf("%s is missing", flag.Envs[0])
		case got != want && (want != "" || !strings.Contains(flag.Help, "Default: "+got)):
			t.Errorf("%s has the default %q, and its documentation has %q", flag.Envs[0], want, got)
		}
	}
	if len(documented) > 0 {
		t.Errorf("there are no such settings: %v", documented)
	}
}
