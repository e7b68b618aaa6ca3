package web_test

import (
	"compress/gzip"
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

func loadSchema(t *testing.T) *ast.Schema {
	t.Helper()
	sdl, err := os.ReadFile("../schema.graphqls")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphqls", Input: string(sdl)})
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// linked returns the paths to which a page links, in order.
func linked(t *testing.T, h http.Handler, page string) []string {
	t.Helper()
	content := body(t, get(t, h, page))
	var paths []string
	for _, m := range regexp.MustCompile(`(?:src|href|data-operations)="([^"]*)"`).
		FindAllStringSubmatch(content, -1) {
		paths = append(paths, m[1])
	}
	if len(paths) < 3 {
		t.Fatalf("%s links to %q only", page, paths)
	}
	return paths
}

// eachPage runs a test for each page of this package.
func eachPage(t *testing.T, test func(t *testing.T, h http.Handler, page string)) {
	for page, h := range map[string]http.Handler{
		"/":                       web.Playground("/graphql"),
		"/account/verify-email":   web.Account("/graphql"),
		"/account/reset-password": web.Account("/graphql"),
	} {
		t.Run(page, func(t *testing.T) { test(t, h, page) })
	}
}

// checkPage checks a page of a handler with the endpoint /graphql?a="b: what all pages have in
// common, its Cache-Control, and that it has the contents.
func checkPage(t *testing.T, h http.Handler, page, cacheControl string, contents ...string) {
	t.Helper()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp := do(t, h, method, page)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", method, resp.StatusCode)
		}
		for name, want := range map[string]string{
			"Content-Type":               "text/html; charset=utf-8",
			"Cache-Control":              cacheControl,
			"Vary":                       "Accept-Encoding",
			"X-Content-Type-Options":     "nosniff",
			"Referrer-Policy":            "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", method, name, got, want)
			}
		}
		if content := body(t, resp); method == http.MethodHead && content != "" {
			t.Errorf("HEAD is answered with %q", content)
		}
	}
	content := body(t, get(t, h, page))
	for _, want := range append(contents, `data-endpoint="/graphql?a=&#34;b"`) {
		if !strings.Contains(content, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if regexp.MustCompile(`<script[^>]*>[^<]|\son\w+=|\sstyle=|<style`).MatchString(content) {
		t.Error("the page has a script or style of its own, which the policy is there to forbid")
	}
}

func TestContentSecurityPolicy(t *testing.T) {
	eachPage(t, func(t *testing.T, h http.Handler, page string) {
		styles := "'self'"
		if page == "/" {
			styles += " 'unsafe-inline'"
		}
		for _, path := range []string{page, "/nothing", linked(t, h, page)[0]} {
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
				"style-src":       styles,
				"base-uri":        "'none'",
				"form-action":     "'none'",
				"frame-ancestors": "'none'",
			} {
				if sources[name] != want {
					t.Errorf("%s: %s is %q, want %q", path, name, sources[name], want)
				}
			}
			if strings.Contains(policy, "*") || strings.Contains(policy, "http") ||
				strings.Contains(policy, "unsafe-eval") {
				t.Errorf("%s: %q permits too much", path, policy)
			}
		}
	})
}

func TestAssets(t *testing.T) {
	types := map[string]string{
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".json": "application/json",
		".svg":  "image/svg+xml",
		".txt":  "text/plain; charset=utf-8",
	}
	eachPage(t, func(t *testing.T, h http.Handler, page string) {
		for _, path := range linked(t, h, page) {
			t.Run(filepath.Base(path), func(t *testing.T) {
				plain, zipped := get(t, h, path),
					get(t, h, path, "Accept-Encoding", "gzip, deflate, br")
				for _, resp := range []*http.Response{plain, zipped} {
					if resp.StatusCode != http.StatusOK {
						t.Fatalf("status %d", resp.StatusCode)
					}
					if got, want := resp.Header.Get(
						"Content-Type"), types[filepath.Ext(path)]; got != want {
						t.Errorf("Content-Type %q, want %q", got, want)
					}
					if got, want := resp.Header.Get(
						"Cache-Control"), "public, max-age=31536000, immutable"; got != want {
						t.Errorf("Cache-Control %q, want %q", got, want)
					}
					if got := resp.Header.Get("Vary"); got != "Accept-Encoding" {
						t.Errorf("Vary %q", got)
					}
					if tag := resp.Header.Get("Etag"); !regexp.MustCompile(`^"[^"]+"$`).
						MatchString(tag) {
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
				if again.StatusCode != http.StatusNotModified ||
					body(t, &http.Response{Body: again.Body}) != "" {
					t.Errorf("status %d for what the client has already", again.StatusCode)
				}
				if other := get(t, h, path, "If-None-Match",
					zippedTag); other.StatusCode != http.StatusOK {
					t.Errorf("status %d to a client that has the other coding", other.StatusCode)
				}
				if head := do(t, h, http.MethodHead, path); head.StatusCode != http.StatusOK ||
					body(t, head) != "" {
					t.Errorf("HEAD: status %d", head.StatusCode)
				}
			})
		}
	})
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
	eachPage(t, func(t *testing.T, h http.Handler, page string) {
		asset := linked(t, h, page)[0]
		dir := filepath.Dir(asset)
		root := filepath.Dir(dir)
		for _, path := range []string{
			"/index.html",
			"/favicon.ico",
			"/graphql",
			root,
			root + "/",
			root + "/layout.html",
			root + "/other",
			strings.TrimSuffix(page, "/") + "/nothing",
			dir,
			dir + "/",
			dir + "/index.html",
			dir + "/layout.html",
			dir + "/verify-email.html",
			dir + "/package.json",
			dir + "/web.go",
			dir + "/operations/1-register.graphql",
			root + "/0000/" + filepath.Base(asset),
			asset + ".gz",
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				resp := do(t, h, method, path)
				if resp.StatusCode != http.StatusNotFound {
					t.Errorf("%s %s: status %d, want 404", method, path, resp.StatusCode)
				}
				if got := resp.Header.Get("Cache-Control"); got != "" {
					t.Errorf("%s %s: a 404 to be kept: %q", method, path, got)
				}
			}
		}
		if resp := do(t, h, http.MethodPost, page); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d, want 405", page, resp.StatusCode)
		}
	})
}

// A page loads nothing from other hosts, so no file may contain the address of one. The name of the
// SVG namespace is an exception: browsers do not load it.
func TestNoOtherHost(t *testing.T) {
	address := regexp.MustCompile(
		`(?i)\b(https?|wss?):/|(src|href|action)\s*=\s*["']?//|url\(\s*["']?//|@import`)
	eachPage(t, func(t *testing.T, h http.Handler, page string) {
		for _, path := range append(linked(t, h, page), page) {
			name := filepath.Base(path)
			content := body(t, get(t, h, path))
			switch {
			case strings.HasPrefix(path, "//") || !strings.HasPrefix(path, "/"):
				t.Errorf("the page loads %s", path)
			case name == "LICENSES.txt" || strings.HasSuffix(name, ".min.js"):
				// Files of others, which contain links for people. The policy limits what they
				// load.
			case name == "graphiql.min.css":
				if m := regexp.MustCompile(`url\(["']?(?:[^"'d]|d[^a]).{0,40}|@import`).
					FindString(content); m != "" {
					t.Errorf("%s loads %s", name, m)
				}
			default:
				content = strings.ReplaceAll(content, `xmlns="http://www.w3.org/2000/svg"`, "")
				if m := address.FindString(content); m != "" {
					t.Errorf("%s contains %s", name, m)
				}
			}
		}
	})
}
