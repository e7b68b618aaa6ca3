// Package web is what a browser gets from Parley: the GraphQL playground, and the pages that mailed
// links lead to. All of it is in the binary, so that a page needs no network beyond the server that
// it came from. The libraries in third_party are made by vendor.sh and are committed.
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

//go:embed index.html icon.svg playground.css playground.js operations third_party account
var files embed.FS

// ownHostOnly is the part of the content security policy that all pages share: they load and call
// nothing but their own host, and scripts are files. 'self' in connect-src covers the WebSocket of
// the same host and port (CSP level 3, section 6.7.2.8). What a page may show, it adds: without a
// directive of its own, it gets 'none'.
const ownHostOnly = "default-src 'none'; " +
	"script-src 'self'; " +
	"connect-src 'self'; " +
	"base-uri 'none'; " +
	"form-action 'none'; " +
	"frame-ancestors 'none'; "

// site serves pages and the assets that they load, and 404 for anything else. It answers GET and
// HEAD.
//
// The assets are addressed under a version that is computed from their contents, so clients may
// keep them for a year.
type site struct {
	mux    *http.ServeMux
	policy string
	assets string // the path of the assets, without a slash at its end
}

// newSite returns a site with its assets below root, and no page yet.
func newSite(policy, root string, assets map[string]*asset) *site {
	version := versionOf(assets)
	s := &site{mux: http.NewServeMux(), policy: policy, assets: root + "/" + version}
	s.mux.HandleFunc("GET "+root+"/{version}/{name}", func(w http.ResponseWriter, r *http.Request) {
		a, ok := assets[r.PathValue("name")]
		// Another version's path must not answer with this version's file, which would then be kept
		// under it.
		if !ok || r.PathValue("version") != version {
			http.NotFound(w, r)
			return
		}
		a.serve(w, r, "public, max-age=31536000, immutable")
	})
	return s
}

// page adds a page, which is made of templates: the first is the page, the others are what it
// refers to.
func (s *site) page(pattern, cacheControl, endpoint string, templates ...string) {
	page := newAsset(templates[0], renderPage(endpoint, s.assets, templates...))
	s.mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
		page.serve(w, r, cacheControl)
	})
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", s.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	// a page that opened this one gets no hold of it
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	s.mux.ServeHTTP(w, r)
}

// renderPage fills in what differs from server to server. It panics when a file is no template,
// which no input can cause: the files are part of the binary.
func renderPage(endpoint, assets string, templates ...string) []byte {
	var page bytes.Buffer
	data := struct{ Endpoint, Assets string }{endpoint, assets}
	if err := template.Must(template.ParseFS(files, templates...)).Execute(&page, data); err != nil {
		panic(fmt.Sprintf("web: %s: %v", templates[0], err))
	}
	return page.Bytes()
}

// loadAssets returns the files that the patterns name, by the names under which they are served.
func loadAssets(patterns ...string) map[string]*asset {
	assets := make(map[string]*asset)
	for _, pattern := range patterns {
		for _, name := range glob(pattern) {
			served := strings.TrimSuffix(path.Base(name), ".gz")
			if strings.HasSuffix(name, ".gz") {
				assets[served] = newZippedAsset(served, read(name))
			} else {
				assets[served] = newAsset(served, read(name))
			}
		}
	}
	return assets
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
	// tag is the ETag of the plain content, without quotes. The zipped content has one of its own,
	// because a strong ETag stands for bytes (RFC 9110, section 8.8.3).
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

// newZippedAsset takes content that is stored zipped. It is unzipped once, for the first client
// that cannot do it itself; there may never be one.
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

// contentType is a table because mime.TypeByExtension asks the operating system, whose answers
// differ.
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

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3): gzip is welcome when it is named,
// or covered by *, with a weight above 0. A client that sends no such header gets plain content,
// although it would have to accept any.
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
