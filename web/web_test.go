package web_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator/rules"
	"github.com/vektah/gqlparser/v2/validator"

	"parley/web"
)

func get(t *testing.T, h http.Handler, path string, header ...string) *http.Response {
	t.Helper()
	return do(t, h, http.MethodGet, path, header...)
}

func do(t *testing.T, h http.Handler, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	var r io.Reader = resp.Body
	if resp.Header.Get("Content-Encoding") == "gzip" {
		zr, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = zr
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// linked returns the paths that the page names, in order.
func linked(t *testing.T, h http.Handler) []string {
	t.Helper()
	page := body(t, get(t, h, "/"))
	var paths []string
	for _, m := range regexp.MustCompile(`(?:src|href|data-operations)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		paths = append(paths, m[1])
	}
	if len(paths) < 8 {
		t.Fatalf("the page links to %q only", paths)
	}
	return paths
}

func TestPage(t *testing.T) {
	h := web.Playground(`/graphql?a="b`)
	resp := get(t, h, "/")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	for name, want := range map[string]string{
		"Content-Type":           "text/html; charset=utf-8",
		"Cache-Control":          "no-cache",
		"Vary":                   "Accept-Encoding",
		"X-Content-Type-Options": "nosniff",
		"Referrer-Policy":        "no-referrer",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	page := body(t, resp)
	for _, want := range []string{
		`data-endpoint="/graphql?a=&#34;b"`,
		`id="access-token" data-testid="access-token"`,
		`id="signed-in" data-testid="signed-in"`,
		`<label for="access-token">`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if regexp.MustCompile(`<script[^>]*>[^<]|\son\w+=|\sstyle=|<style`).MatchString(page) {
		t.Error("the page has a script or style of its own, which the policy is there to forbid")
	}
}

func TestContentSecurityPolicy(t *testing.T) {
	h := web.Playground("/graphql")
	for _, path := range []string{"/", "/nothing", linked(t, h)[0]} {
		policy := get(t, h, path).Header.Get("Content-Security-Policy")
		sources := map[string]string{}
		for directive := range strings.SplitSeq(policy, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), " ")
			sources[name] = value
		}
		for name, want := range map[string]string{
			"default-src":     "'none'",
			"script-src":      "'self'",
			"connect-src":     "'self'",
			"style-src":       "'self' 'unsafe-inline'",
			"frame-ancestors": "'none'",
		} {
			if sources[name] != want {
				t.Errorf("%s: %s is %q, want %q", path, name, sources[name], want)
			}
		}
		if strings.Contains(policy, "*") || strings.Contains(policy, "http") || strings.Contains(policy, "unsafe-eval") {
			t.Errorf("%s: %q permits too much", path, policy)
		}
	}
}

func TestAssets(t *testing.T) {
	h := web.Playground("/graphql")
	types := map[string]string{
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".json": "application/json",
		".svg":  "image/svg+xml",
		".txt":  "text/plain; charset=utf-8",
	}
	for _, path := range linked(t, h) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			plain, zipped := get(t, h, path), get(t, h, path, "Accept-Encoding", "gzip, deflate, br")
			for _, resp := range []*http.Response{plain, zipped} {
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("status %d", resp.StatusCode)
				}
				if got, want := resp.Header.Get("Content-Type"), types[filepath.Ext(path)]; got != want {
					t.Errorf("Content-Type %q, want %q", got, want)
				}
				if got, want := resp.Header.Get("Cache-Control"), "public, max-age=31536000, immutable"; got != want {
					t.Errorf("Cache-Control %q, want %q", got, want)
				}
				if got := resp.Header.Get("Vary"); got != "Accept-Encoding" {
					t.Errorf("Vary %q", got)
				}
				if tag := resp.Header.Get("Etag"); !regexp.MustCompile(`^"[^"]+"$`).MatchString(tag) {
					t.Errorf("%s is no strong ETag", tag)
				}
			}
			if got := plain.Header.Get("Content-Encoding"); got != "" {
				t.Errorf("Content-Encoding %q for a client that accepts none", got)
			}
			if got := zipped.Header.Get("Content-Encoding"); got != "gzip" {
				t.Errorf("Content-Encoding %q, want gzip", got)
			}
			plainTag, zippedTag := plain.Header.Get("Etag"), zipped.Header.Get("Etag")
			if plainTag == zippedTag {
				t.Error("one strong ETag for two different contents")
			}
			if p := body(t, plain); p == "" || p != body(t, zipped) {
				t.Error("zipped and plain are not the same")
			}

			again := get(t, h, path, "Accept-Encoding", "gzip", "If-None-Match", zippedTag)
			if again.StatusCode != http.StatusNotModified || body(t, &http.Response{Body: again.Body}) != "" {
				t.Errorf("status %d for what the client has already", again.StatusCode)
			}
			if other := get(t, h, path, "If-None-Match", zippedTag); other.StatusCode != http.StatusOK {
				t.Errorf("status %d to a client that has the other coding", other.StatusCode)
			}
			if head := do(t, h, http.MethodHead, path); head.StatusCode != http.StatusOK || body(t, head) != "" {
				t.Errorf("HEAD: status %d", head.StatusCode)
			}
		})
	}
}

func TestAcceptEncoding(t *testing.T) {
	h := web.Playground("/graphql")
	for header, want := range map[string]string{
		"":                      "",
		"gzip":                  "gzip",
		"br;q=1.0, GZIP; q=0.2": "gzip",
		"x-gzip":                "gzip",
		"*":                     "gzip",
		"gzip;q=0":              "",
		"gzip;q=0.000, *":       "",
		"*;q=0":                 "",
		"gzip;q=much":           "",
		"br, deflate":           "",
		"identity":              "",
	} {
		resp := get(t, h, "/", "Accept-Encoding", header)
		if got := resp.Header.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: Content-Encoding %q, want %q", header, got, want)
		}
		if !strings.HasPrefix(body(t, resp), "<!doctype html>") {
			t.Errorf("Accept-Encoding %q: no page", header)
		}
	}
}

func TestNothingElse(t *testing.T) {
	h := web.Playground("/graphql")
	asset := linked(t, h)[0]
	for _, path := range []string{
		"/index.html",
		"/favicon.ico",
		"/graphql",
		"/playground",
		"/playground/",
		filepath.Dir(asset),
		filepath.Dir(asset) + "/",
		filepath.Dir(asset) + "/package.json",
		filepath.Dir(asset) + "/web.go",
		filepath.Dir(asset) + "/operations/1-register.graphql",
		"/playground/0000/" + filepath.Base(asset),
		asset + ".gz",
	} {
		resp := get(t, h, path)
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, resp.StatusCode)
		}
		if got := resp.Header.Get("Cache-Control"); got != "" {
			t.Errorf("%s: a 404 to be kept: %q", path, got)
		}
	}
	if resp := do(t, h, http.MethodPost, "/"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /: status %d, want 405", resp.StatusCode)
	}
}

// The page must work without any network but its own server, so nothing in it may name another host. The one exception is
// the name of the SVG namespace, which nobody fetches.
func TestNoOtherHost(t *testing.T) {
	h := web.Playground("/graphql")
	address := regexp.MustCompile(`(?i)\b(https?|wss?):/|(src|href|action)\s*=\s*["']?//|url\(\s*["']?//|@import`)
	for _, path := range append(linked(t, h), "/") {
		name := filepath.Base(path)
		content := body(t, get(t, h, path))
		switch {
		case strings.HasPrefix(path, "//") || !strings.HasPrefix(path, "/"):
			t.Errorf("the page loads %s", path)
		case name == "LICENSES.txt" || strings.HasSuffix(name, ".min.js"):
			// Not ours: these name pages for people to read. What they could load is up to the policy.
		case name == "graphiql.min.css":
			if m := regexp.MustCompile(`url\(["']?(?:[^"'d]|d[^a]).{0,40}|@import`).FindString(content); m != "" {
				t.Errorf("%s loads %s", name, m)
			}
		default:
			content = strings.ReplaceAll(content, `xmlns="http://www.w3.org/2000/svg"`, "")
			if m := address.FindString(content); m != "" {
				t.Errorf("%s contains %s", name, m)
			}
		}
	}
}

// The token must not outlive its tab, so nothing may be kept where it would.
func TestNothingInLocalStorage(t *testing.T) {
	script, err := os.ReadFile("playground.js")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(script)) {
		code, _, _ := strings.Cut(line, "//")
		if strings.Contains(code, "localStorage") || strings.Contains(code, ".cookie") {
			t.Errorf("playground.js: %s", line)
		}
	}
}

// The address of the registry is a matter of whoever runs npm.
func TestLockfileNamesNoRegistry(t *testing.T) {
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error("package-lock.json says where each package came from: use npm's omit-lockfile-registry-resolved")
	}
}

func TestOperations(t *testing.T) {
	sdl, err := os.ReadFile("../schema.graphqls")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphqls", Input: string(sdl)})
	if err != nil {
		t.Fatal(err)
	}

	h := web.Playground("/graphql")
	var tabs []struct{ Query, Variables string }
	for _, path := range linked(t, h) {
		if filepath.Base(path) == "operations.json" {
			if err := json.Unmarshal([]byte(body(t, get(t, h, path))), &tabs); err != nil {
				t.Fatal(err)
			}
		}
	}

	var names []string
	for _, tab := range tabs {
		doc, errs := gqlparser.LoadQueryWithRules(schema, tab.Query, rules.NewDefaultRules())
		if errs != nil {
			t.Errorf("%v\n%s", errs, tab.Query)
			continue
		}
		// With two operations in a tab, the button would ask which one to run.
		if len(doc.Operations) != 1 {
			t.Errorf("%d operations in one tab", len(doc.Operations))
			continue
		}
		op := doc.Operations[0]
		names = append(names, op.Name)
		if !strings.HasPrefix(tab.Query, "# ") {
			t.Errorf("%s does not say what to do", op.Name)
		}
		var variables map[string]any
		if err := json.Unmarshal([]byte(tab.Variables), &variables); err != nil {
			t.Errorf("%s: variables: %v", op.Name, err)
		}
		if _, err := validator.VariableValues(schema, op, variables); err != nil {
			t.Errorf("%s: variables: %v", op.Name, err)
		}
		for name := range variables {
			if op.VariableDefinitions.ForName(name) == nil {
				t.Errorf("%s: variable %s is not used", op.Name, name)
			}
		}
	}
	want := "Register SignIn FindPeople CreateConversation Conversations SendMessage MessageAdded"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("tabs %s, want %s", got, want)
	}
}
