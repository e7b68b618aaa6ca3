package main

import "net/http"

// defaultHeaders are on every answer, of every route, errors included; a handler may replace those
// that it knows better. Nothing is guessed to be of another type than it says, kept by a cache,
// shown in a frame, run as a page, or loaded by a page of another origin that was not allowed to
// (Fetch, WHATWG; Content Security Policy Level 3; RFC 9111).
func defaultHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}
