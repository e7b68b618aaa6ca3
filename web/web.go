// Package web is what a browser gets from Parley: the GraphQL playground. All of it is in the binary, so that the page needs
// no network beyond the server that it came from. The libraries in third_party are made by vendor.sh and are committed.
package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed index.html icon.svg playground.css playground.js operations third_party
var files embed.FS

// contentSecurityPolicy lets the page load and call nothing but its own host.
//
// CodeMirror and the components in GraphiQL put style elements into the page, hence 'unsafe-inline' for styles; scripts
// stay limited to files. GraphiQL's style sheet contains its fonts and two images as data URLs. 'self' in connect-src
// covers the WebSocket of the same host and port (CSP level 3, section 6.7.2.8).
const contentSecurityPolicy = "default-src 'none'; " +
	"script-src 'self'; " +
	"style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; " +
	"font-src 'self' data:; " +
	"connect-src 'self'; " +
	"base-uri 'none'; " +
	"form-action 'none'; " +
	"frame-ancestors 'none'"

// Playground returns the handler of the GraphQL playground: the page at /, its files below /playground/, and 404 for
// anything else. It answers GET and HEAD. The endpoint is the path of the API on the same host, where the page sends
// queries and mutations by POST and subscriptions by WebSocket (graphql-transport-ws).
//
// The files are addressed under a version that is computed from their contents, so clients may keep them for a year; the
// page itself is asked for again each time.
func Playground(endpoint string) http.Handler {
	assets := loadAssets()
	version := versionOf(assets)
	page := newAsset("index.html", renderPage(endpoint, "/playground/"+version))

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		page.serve(w, r, "no-cache")
	})
	mux.HandleFunc("GET /playground/{version}/{name}", func(w http.ResponseWriter, r *http.Request) {
		a, ok := assets[r.PathValue("name")]
		// Another version's path must not answer with this version's file, which would then be kept under it.
		if !ok || r.PathValue("version") != version {
			http.NotFound(w, r)
			return
		}
		a.serve(w, r, "public, max-age=31536000, immutable")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

// renderPage fills in what differs from server to server. It panics when index.html is no template, which no input can
// cause: the file is part of the binary.
func renderPage(endpoint, assets string) []byte {
	var page bytes.Buffer
	data := struct{ Endpoint, Assets string }{endpoint, assets}
	if err := template.Must(template.ParseFS(files, "index.html")).Execute(&page, data); err != nil {
		panic(fmt.Sprintf("web: index.html: %v", err))
	}
	return page.Bytes()
}

// loadAssets returns everything below /playground/<version>/, by name.
func loadAssets() map[string]*asset {
	assets := make(map[string]*asset)
	for _, pattern := range []string{"icon.svg", "playground.*", "third_party/*"} {
		for _, name := range glob(pattern) {
			served := strings.TrimSuffix(path.Base(name), ".gz")
			if strings.HasSuffix(name, ".gz") {
				assets[served] = newZippedAsset(served, read(name))
			} else {
				assets[served] = newAsset(served, read(name))
			}
		}
	}
	operations, err := json.Marshal(loadOperations())
	if err != nil {
		panic(fmt.Sprintf("web: operations: %v", err))
	}
	assets["operations.json"] = newAsset("operations.json", operations)
	return assets
}

// operation is one of the tabs that a new visitor finds.
type operation struct {
	Query string `json:"query"`
	// Variables is the text for the editor, a JSON object.
	Variables string `json:"variables"`
}

// loadOperations returns the tabs in their order, which is that of the file names.
func loadOperations() []operation {
	var operations []operation
	for _, name := range glob("operations/*.graphql") {
		variables := strings.TrimSuffix(name, ".graphql") + ".json"
		operations = append(operations, operation{
			Query:     strings.TrimSpace(string(read(name))),
			Variables: strings.TrimSpace(string(read(variables))),
		})
	}
	return operations
}

// glob and read panic where a file is missing: then the binary was built from an incomplete tree.
func glob(pattern string) []string {
	names, err := fs.Glob(files, pattern)
	if err == nil && len(names) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		panic(fmt.Sprintf("web: %s: %v", pattern, err))
	}
	return names
}

func read(name string) []byte {
	content, err := files.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("web: %v", err))
	}
	return content
}

// versionOf names a set of assets by their contents.
func versionOf(assets map[string]*asset) string {
	tags := make(map[string]string, len(assets))
	for name, a := range assets {
		tags[name] = a.tag
	}
	// Maps are marshalled in the order of their keys.
	all, err := json.Marshal(tags)
	if err != nil {
		panic(fmt.Sprintf("web: version: %v", err))
	}
	return digest(all)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:10])
}

// asset is one file in the two codings in which clients can get it.
type asset struct {
	contentType string
	// tag is the ETag of the plain content, without quotes. The zipped content has one of its own, because a strong ETag
	// stands for bytes (RFC 9110, section 8.8.3).
	tag, zippedTag string
	plain          func() []byte
	zipped         []byte
}

func newAsset(name string, content []byte) *asset {
	zipped := zip(content)
	return &asset{
		contentType: contentType(name),
		tag:         digest(content),
		zippedTag:   digest(zipped),
		plain:       func() []byte { return content },
		zipped:      zipped,
	}
}

// newZippedAsset takes content that is stored zipped. It is unzipped once, for the first client that cannot do it itself;
// there may never be one.
func newZippedAsset(name string, zipped []byte) *asset {
	return &asset{
		contentType: contentType(name),
		tag:         digest(zipped) + "-plain",
		zippedTag:   digest(zipped),
		plain:       sync.OnceValue(func() []byte { return unzip(name, zipped) }),
		zipped:      zipped,
	}
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request, cacheControl string) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Cache-Control", cacheControl)
	h.Set("Vary", "Accept-Encoding")
	tag, content := a.tag, a.zipped
	if acceptsGzip(r.Header) {
		tag = a.zippedTag
		h.Set("Content-Encoding", "gzip")
	} else {
		content = a.plain()
	}
	h.Set("Etag", strconv.Quote(tag))
	// There is no time of change: embedded files have none, and the ETag says more.
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// contentType is a table because mime.TypeByExtension asks the operating system, whose answers differ.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".json":
		return "application/json"
	case ".svg":
		return "image/svg+xml"
	case ".txt":
		return "text/plain; charset=utf-8"
	default:
		panic("web: no content type for " + name)
	}
}

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3): gzip is welcome when it is named, or covered by *, with a
// weight above 0. A client that sends no such header gets plain content, although it would have to accept any.
func acceptsGzip(h http.Header) bool {
	byAsterisk := false
	for coding := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, parameter, _ := strings.Cut(coding, ";")
		welcome := true
		if key, weight, ok := strings.Cut(parameter, "="); ok && strings.EqualFold(strings.TrimSpace(key), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(weight), 64)
			welcome = err == nil && q > 0
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip":
			return welcome
		case "*":
			byAsterisk = welcome
		}
	}
	return byAsterisk
}

func zip(content []byte) []byte {
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		// A buffer takes everything, and the level is a valid one.
		panic(fmt.Sprintf("web: gzip: %v", err))
	}
	return zipped.Bytes()
}

func unzip(name string, zipped []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		panic(fmt.Sprintf("web: %s: %v", name, err))
	}
	content, err := io.ReadAll(r)
	if err != nil {
		panic(fmt.Sprintf("web: %s: %v", name, err))
	}
	return content
}
