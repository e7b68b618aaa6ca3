package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"testing"

	"parley/store/storetest"
)

// TestPlayground lets two users meet in the playground, each in a browser context of their own. It
// runs on one database only, because the page does not depend on it.
func TestPlayground(t *testing.T) {
	t.Parallel()
	browser := mustBrowse(t, "playground.js")
	srv := mustServe(t)

	ada := browser.open("ada", srv.page)
	ada.says("signed-in", "Not signed in")
	// The docs begin with the conventions, which are the description of the schema.
	ada.do("docs", variables{"contains": "Parley's API: every operation, type and promise"}, nil)
	var registered struct {
		Friend, Me signedIn
	}
	ada.run(register, nil, &registered)
	ada.says("signed-in", "Signed in as ada")
	if got, want := ada.value("access-token"), registered.Me.Tokens.AccessToken; got != want ||
		got == "" {
		t.Errorf("the access token in the bar is %q, want %q", got, want)
	}

	var found struct {
		Users struct {
			Nodes []struct{ ID, Nickname string }
		}
	}
	ada.run(findPeople, nil, &found)
	if len(found.Users.Nodes) != 1 || found.Users.Nodes[0].ID != registered.Friend.Viewer.User.ID {
		t.Fatalf("found %+v, want grace", found.Users.Nodes)
	}
	var created struct {
		CreateConversation struct{ Conversation struct{ ID string } }
	}
	ada.run(createConversation, variables{"input": variables{
		"title":   "Engines and compilers",
		"members": []variables{{"userId": found.Users.Nodes[0].ID}},
	}}, &created)
	conversation := created.CreateConversation.Conversation.ID
	var sent struct {
		SendMessage struct{ Message struct{ Content string } }
	}
	send := func(p *page, content string) {
		t.Helper()
		p.run(sendMessage, variables{"input": variables{
			"conversationId": conversation,
			"content":        content,
		}}, &sent)
		if got := sent.SendMessage.Message.Content; got != content {
			t.Errorf("sent %q, want %q", got, content)
		}
	}
	send(ada, "Is anybody there?")

	grace := browser.open("grace", srv.page)
	grace.run(signIn, variables{"input": variables{
		"email":    "grace@example.org",
		"password": "correct horse battery",
	}}, nil)
	grace.says("signed-in", "Signed in as grace")

	ada.run(messageAdded, variables{"conversationId": conversation, "afterSeq": 0}, nil)
	ada.waitForResponse("Is anybody there?")
	send(grace, "I am here, in another browser.")
	ada.waitForResponse("I am here, in another browser.")

	// The other person's list shows the same.
	var listed struct {
		Viewer struct {
			Conversations struct {
				Nodes []struct {
					Title    string
					Messages struct{ Nodes []struct{ Content string } }
				}
			}
		}
	}
	grace.run(conversations, nil, &listed)
	want := "[{Engines and compilers {[{Is anybody there?} {I am here, in another browser.}]}}]"
	if got := fmt.Sprint(listed.Viewer.Conversations.Nodes); got != want {
		t.Errorf("grace's conversations are %s, want %s", got, want)
	}

	// Signing out ends what ran with the token, and the session.
	ada.do("click", variables{"testid": "sign-out"}, nil)
	ada.says("signed-in", "Not signed in")
	ada.says("token-note", "Signed out.")
	ada.waitForResponse("The access token has changed.")
	// The page does not wait for the answer, so it does not show when the session has ended.
	signedOut := &person{server: srv, tokens: registered.Me.Tokens}
	eventually(t, "the session has ended", func() bool {
		return signedOut.ask(`{ viewer { email } }`, nil).code() == "UNAUTHENTICATED"
	})
}

// tab is one of the operations that the playground offers a new visitor.
type tab struct {
	Index     int    `json:"index"`
	Operation string `json:"operation"` // how its text is recognized
}

var (
	register           = tab{0, "mutation Register("}
	signIn             = tab{1, "mutation SignIn("}
	findPeople         = tab{2, "query FindPeople("}
	createConversation = tab{3, "mutation CreateConversation("}
	conversations      = tab{4, "query Conversations("}
	sendMessage        = tab{5, "mutation SendMessage("}
	messageAdded       = tab{6, "subscription MessageAdded("}
)

// browser is a headless Chromium, driven by a script. Any error in one of its pages fails the test.
type browser struct{ *script }

// page is a user's page in a browser.
type page struct {
	*browser
	name string
}

func mustBrowse(t *testing.T, script string) *browser {
	t.Helper()
	if storetest.Skipped("browser") {
		t.Skipf("%s names browser", storetest.Skip)
	}
	executable, err := findBrowser()
	if err != nil {
		t.Fatalf("%v; to do without, set %s=browser", err, storetest.Skip)
	}
	home := t.TempDir()
	b := &browser{mustRun(t, script, map[string]string{"executable": executable},
		// The profile, caches and other files of the browser are removed with the test.
		"HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)}
	t.Cleanup(func() {
		// Errors in a page after the last instruction count too.
		_ = b.stdin.Close()
		for line := range b.events {
			b.trouble(line)
		}
	})
	return b
}

func findBrowser() (path string, err error) {
	for _, name := range []string{
		"chromium", "chromium-browser", "google-chrome",
		"/usr/bin/chromium",
	} {
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "",
		errors.New(
			"there is no Chromium: pages are tested in a real browser (Debian: apt-get install " +
				"chromium)")
}

func (b *browser) open(name, url string) *page {
	b.t.Helper()
	p := &page{b, name}
	p.do("open", variables{"url": url}, nil)
	return p
}

// do sends an instruction for the page, and reads its result.
func (p *page) do(action string, with variables, into any) {
	p.t.Helper()
	instruction := variables{"page": p.name, "action": action}
	maps.Copy(instruction, with)
	p.instruct(instruction)
	for {
		var e struct {
			Type, Reason string
			Value        json.RawMessage
		}
		line := p.next(&e)
		switch e.Type {
		case "done":
			if into != nil {
				if err := json.Unmarshal(e.Value, into); err != nil {
					p.t.Fatalf("%s: %v", line, err)
				}
			}
			return
		case "failed":
			p.t.Fatal(e.Reason)
		default:
			p.trouble(line)
		}
	}
}

func (b *browser) trouble(line []byte) {
	b.t.Helper()
	if strings.Contains(string(line), `"type":"trouble"`) {
		b.t.Errorf("in the browser: %s", line)
	}
}

// run runs one of the prepared operations, with other variables if there are any, and reads the
// data of the answer.
func (p *page) run(operation tab, vars variables, data any) {
	p.t.Helper()
	with := variables{"tab": operation}
	if vars != nil {
		with["variables"] = vars
	}
	var response string
	p.do("run", with, &response)
	var a answer
	if err := json.Unmarshal([]byte(response), &a); err != nil || a.Errors != nil {
		p.t.Fatalf("%s%s...: %v %s", p.name, operation.Operation, err, response)
	}
	if data != nil {
		if err := json.Unmarshal(a.Data, data); err != nil {
			p.t.Fatal(err)
		}
	}
}

// waitForResponse waits until the response shows a text.
func (p *page) waitForResponse(text string) {
	p.t.Helper()
	p.do("response", variables{"contains": text}, nil)
}

// says waits until an element shows exactly this text.
func (p *page) says(testid, text string) {
	p.t.Helper()
	p.do("says", variables{"testid": testid, "text": text}, nil)
}

func (p *page) value(testid string) (value string) {
	p.t.Helper()
	p.do("value", variables{"testid": testid}, &value)
	return value
}
