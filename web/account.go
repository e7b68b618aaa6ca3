package web

import (
	"net/http"
	"regexp"
)

// These pages are our own to the last line, so nothing has to be allowed for the sake of a library.
const accountPolicy = ownHostOnly +
	"style-src 'self'; " +
	"img-src 'self'"

// Account returns the handler of the pages that mailed links lead to where the operator has no
// frontend: it belongs at /account/*, and serves /account/verify-email, /account/reset-password,
// their files below /account/, and 404 for anything else. It answers GET and HEAD. The endpoint is
// the path of the API on the same host, where the pages send the mutations verifyEmail and
// resetPassword by POST.
//
// The one-time token is in the fragment of the link, #token=..., which browsers send to nobody: so
// it is in no log, and the pages are the same for everybody. Opening a link changes nothing,
// because the scanners of mail services open links too.
func Account(endpoint string) http.Handler {
	s := newSite(accountPolicy, "/account", loadAssets("icon.svg", "account/*.css", "account/*.js"))
	for _, name := range []string{"verify-email", "reset-password"} {
		// Not stored, so that nobody who comes to this browser later gets back to a page that still
		// holds a token.
		s.page("/account/"+name, "no-store", endpoint, "account/layout.html", "account/"+name+".html")
	}
	return s
}

// AccountDocuments are what the pages send, for a server that answers only documents that it knows.
func AccountDocuments() (documents []string) {
	script, err := files.ReadFile("account/account.js")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, match := range regexp.MustCompile(`query: '([^']+)'`).FindAllSubmatch(script, -1) {
		documents = append(documents, string(match[1]))
	}
	return documents
}
