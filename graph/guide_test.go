package graph_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/store"
	"parley/store/storetest"
)

// guideStep is one operation or one received event in docs/guide.md.
type guideStep struct {
	line      int    // of the document
	caller    string // the name, in lower case
	query     string // empty if an open subscription receives an event
	variables obj
	answers   []obj
}

// The cue of a step is the end of a line: "As Ada:" if its operation follows, "As Ada,
// SendMessage:" if the operation of an earlier step is sent again, "Ada receives:" if her open
// subscription receives an event.
var (
	guideAsks     = regexp.MustCompile(`\bAs (\w+)(?:, (\w+))?:$`)
	guideReceives = regexp.MustCompile(`\b(\w+) receives:$`)
	guideNames    = regexp.MustCompile(`^(?:query|mutation|subscription|fragment) (\w+)`)
	guideSpreads  = regexp.MustCompile(`\.\.\.(\w+)`)
)

// guideReader reads the steps of a document.
type guideReader struct {
	operations map[string]string // and fragments, by name
	steps      []*guideStep
	cue        string // the last line of text
	asked      bool   // the cue has become a step
}

func readGuide(t *testing.T) []*guideStep {
	t.Helper()
	doc, err := os.ReadFile("../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	g := &guideReader{operations: map[string]string{}}
	language, block, from := "", "", 0
	for i, line := range strings.Split(string(doc), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && language == "":
			language, block, from = fence, "", i+1
			if language == "" {
				t.Fatalf("docs/guide.md:%d: a block without a language", from)
			}
		case isFence:
			if err := g.add(language, block, from); err != nil {
				t.Fatalf("docs/guide.md:%d: %v", from, err)
			}
			language = ""
		case language != "":
			block += line + "\n"
		case line != "":
			g.cue, g.asked = line, false
		}
	}
	return g.steps
}

func (g *guideReader) add(language, block string, line int) error {
	switch language {
	case "graphql":
		name := guideNames.FindStringSubmatch(block)
		if name == nil {
			return fmt.Errorf("an operation without a name")
		}
		for _, spread := range guideSpreads.FindAllStringSubmatch(block, -1) {
			block += g.operations[spread[1]]
		}
		g.operations[name[1]] = block
		if strings.HasPrefix(block, "fragment") {
			return nil
		}
		return g.begin(line, name[1])
	case "json":
		if !g.asked {
			if err := g.begin(line, ""); err != nil {
				return err
			}
		}
		var v obj
		if err := json.Unmarshal([]byte(block), &v); err != nil {
			return err
		}
		step := g.steps[len(g.steps)-1]
		switch _, isAnswer := v["data"]; {
		case isAnswer:
			step.answers = append(step.answers, v)
		case step.variables != nil || step.answers != nil || step.query == "":
			return fmt.Errorf("neither variables nor an answer: %s", block)
		default:
			step.variables = v
		}
		return nil
	}
	return fmt.Errorf("a block of %s, which nothing checks", language)
}

// begin starts a step from the cue. operation is the name in it, if any.
func (g *guideReader) begin(line int, operation string) error {
	step := &guideStep{line: line}
	if asks := guideAsks.FindStringSubmatch(g.cue); asks != nil && !g.asked &&
		(operation == "") != (asks[2] == "") {
		step.caller, step.query = asks[1], g.operations[operation+asks[2]]
		if step.query == "" {
			return fmt.Errorf("no operation %s before", asks[2])
		}
	} else if receives := guideReceives.FindStringSubmatch(g.cue); receives != nil && !g.asked &&
		operation == "" {
		step.caller = receives[1]
	} else {
		return fmt.Errorf("a block after %q, which does not name its caller", g.cue)
	}
	step.caller = strings.ToLower(step.caller)
	g.steps, g.asked = append(g.steps, step), true
	return nil
}

// guideRun runs the steps against a server.
type guideRun struct {
	api    *api
	tokens map[string]string // by caller
	live   map[string]operation
	// shown has the values of the server for the ids, times, cursors and tokens of the document.
	shown map[string]string
}

// Values that differ between runs.
var (
	guidePlaceholder = regexp.MustCompile(`^([a-z]+)_[A-Z][A-Z_]*$`)
	guideTime        = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
)

func (g *guideRun) run(step *guideStep) error {
	if step.query == "" {
		return g.receive(step)
	}
	variables, err := g.filled(step.variables)
	if err != nil {
		return err
	}
	request := variables.(obj)
	if strings.HasPrefix(step.query, "subscription") {
		if old, open := g.live[step.caller]; open {
			_ = old.client.conn.CloseNow() // its connection broke
		}
		g.live[step.caller] = g.api.mustDial(g.tokens[step.caller], nil).
			subscribe(step.query, request)
		return g.receive(step)
	}
	if len(step.answers) != 1 {
		return fmt.Errorf("%d answers to one request", len(step.answers))
	}
	body, err := json.Marshal(obj{"query": step.query, "variables": request})
	if err != nil {
		return err
	}
	_, raw := g.api.post(body, http.Header{
		"Authorization": bearer(g.tokens[step.caller]),
		"Content-Type":  {"application/json"},
	})
	if err := g.compare(step.answers[0], raw); err != nil {
		return err
	}
	var signedIn struct {
		Data struct {
			Register struct{ Tokens struct{ AccessToken string } }
		}
	}
	if err := json.Unmarshal(raw, &signedIn); err != nil {
		return err
	}
	if token := signedIn.Data.Register.Tokens.AccessToken; token != "" {
		g.tokens[step.caller] = token
	}
	return nil
}

func (g *guideRun) receive(step *guideStep) error {
	follows, open := g.live[step.caller]
	if !open {
		return fmt.Errorf("%s follows nothing", step.caller)
	}
	for _, want := range step.answers {
		f := follows.frame()
		if f.Type != "next" {
			return fmt.Errorf("%s received %+v", step.caller, f)
		}
		if err := g.compare(want, f.Payload); err != nil {
			return err
		}
	}
	return nil
}

// filled replaces the values of the document with those of the server.
func (g *guideRun) filled(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case obj:
		filled := obj{}
		for name, value := range v {
			if filled[name], err = g.filled(value); err != nil {
				return nil, err
			}
		}
		return filled, nil
	case list:
		filled := make(list, len(v))
		for i, value := range v {
			if filled[i], err = g.filled(value); err != nil {
				return nil, err
			}
		}
		return filled, nil
	case string:
		if real, known := g.shown[v]; known {
			return real, nil
		}
		if guidePlaceholder.MatchString(v) {
			return nil, fmt.Errorf("%s is used before it was shown", v)
		}
		if guideTime.MatchString(v) {
			g.shown[v] = v // chosen by the client
		}
	}
	return v, nil
}

func (g *guideRun) compare(want obj, raw []byte) error {
	var got obj
	if err := json.Unmarshal(raw, &got); err != nil {
		return fmt.Errorf("%s: %w", raw, err)
	}
	if err := g.match("", want, got); err != nil {
		return fmt.Errorf("%w\nin %s", err, raw)
	}
	return nil
}

// match reports where an answer differs from the document. The document may leave out fields, but
// not errors.
func (g *guideRun) match(path string, want, got any) error {
	switch want := want.(type) {
	case obj:
		fields, ok := got.(obj)
		if !ok {
			return fmt.Errorf("%s is %v", path, got)
		}
		for _, mistakes := range []string{"errors", "userErrors"} {
			if list, _ := fields[mistakes].(list); len(list) > 0 && want[mistakes] == nil {
				return fmt.Errorf("%s.%s: %v", path, mistakes, list)
			}
		}
		for name, value := range want {
			there, asked := fields[name]
			if !asked {
				return fmt.Errorf("%s.%s is not there", path, name)
			}
			if err := g.match(path+"."+name, value, there); err != nil {
				return err
			}
		}
		return nil
	case list:
		items, ok := got.(list)
		if !ok || len(items) != len(want) {
			return fmt.Errorf("%s has to be %d items, and is %v", path, len(want), got)
		}
		for i := range want {
			if err := g.match(fmt.Sprintf("%s.%d", path, i), want[i], items[i]); err != nil {
				return err
			}
		}
		return nil
	case string:
		if kind := guidePlaceholder.FindStringSubmatch(want); kind != nil ||
			guideTime.MatchString(want) {
			return g.matchShown(path, want, got, kind)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("%s: %s", path, diff)
	}
	return nil
}

// matchShown maps each name in the document to one value of the server, and each value to one name.
func (g *guideRun) matchShown(path, want string, got any, kind []string) error {
	real, ok := got.(string)
	if !ok || real == "" {
		return fmt.Errorf("%s is %v", path, got)
	}
	if known, shown := g.shown[want]; shown && known != real {
		return fmt.Errorf("%s is %s, and %s was %s", path, real, want, known)
	}
	for name, value := range g.shown {
		if value == real && name != want {
			return fmt.Errorf("%s is %s, which is %s and not %s", path, real, name, want)
		}
	}
	isID := kind != nil && slices.Contains([]string{"user", "conv", "msg", "member", "session"},
		kind[1])
	if isID && !strings.HasPrefix(real, kind[1]+"_") || kind == nil &&
		!guideTime.MatchString(real) {
		return fmt.Errorf("%s is %s, which %s cannot stand for", path, real, want)
	}
	g.shown[want] = real
	return nil
}

// TestGuide sends what docs/guide.md sends, in its order, and compares the answers.
func TestGuide(t *testing.T) {
	t.Parallel()
	steps := readGuide(t)
	if len(steps) < 40 {
		t.Errorf("only %d steps were found", len(steps))
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		g := &guideRun{
			api: mustServe(t, db), tokens: map[string]string{},
			live: map[string]operation{}, shown: map[string]string{},
		}
		for _, step := range steps {
			if err := g.run(step); err != nil {
				t.Fatalf("docs/guide.md:%d: %v", step.line, err)
			}
		}
		var times []string
		for name := range g.shown {
			if guideTime.MatchString(name) {
				times = append(times, name)
			}
		}
		slices.Sort(times)
		if !slices.IsSortedFunc(times,
			func(a, b string) int { return strings.Compare(g.shown[a], g.shown[b]) }) {
			t.Errorf("the times of docs/guide.md go another way than those of the server: %v",
				g.shown)
		}
	})
}
