package main

import (
	"maps"
	"net/http"
)

// defaultHeaders are on every answer, of every route, errors included, also on the 429 that
// connectionLimit writes; a handler may replace those that it knows better. Nothing is guessed to
// be of another type than it says, kept by a cache, shown in a frame, run as a page, or loaded by a
// page of another origin that was not allowed to (Fetch, WHATWG; Content Security Policy Level 3;
// RFC 9111).
func defaultHeaders() http.Header {
	return http.Header{
		"X-Content-Type-Options":       {"nosniff"},
		"Cache-Control":                {"no-store"},
		"Content-Security-Policy":      {"default-src 'none'; frame-ancestors 'none'"},
		"Referrer-Policy":              {"no-referrer"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
	}
}

// withDefaultHeaders sets defaultHeaders before next writes.
func withDefaultHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), defaultHeaders())
		next.ServeHTTP(w, r)
	})
}
