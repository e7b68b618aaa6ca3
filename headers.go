package main

import (
	"maps"
	"net/http"
)

// defaultHeaders are on every answer of every route, also on errors and on the 429 of
// connectionLimit. A handler may replace them. They forbid clients to guess another media type,
// to keep the answer in a cache, to show it in a frame, to run anything from it in a page, to send
// its address as a referrer, and to load it from pages of other origins (Fetch, WHATWG; Content
// Security Policy Level 3; RFC 9111).
func defaultHeaders() http.Header {
	return http.Header{
		"X-Content-Type-Options":       {"nosniff"},
		"Cache-Control":                {"no-store"},
		"Content-Security-Policy":      {"default-src 'none'; frame-ancestors 'none'"},
		"Referrer-Policy":              {"no-referrer"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
	}
}

// withDefaultHeaders sets defaultHeaders before it calls next.
func withDefaultHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), defaultHeaders())
		next.ServeHTTP(w, r)
	})
}
