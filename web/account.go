package web

import (
	"net/http"
	"regexp"
)

// accountPolicy allows nothing for libraries, because these pages use none.
const accountPolicy = ownHostOnly +
	"style-src 'self'; " +
	"img-src 'self'"

// Account returns the handler of the pages for the links in mails, for operators without a frontend
// of their own. It belongs at /account/*. It serves /account/verify-email, /account/reset-password
// and their files below /account/, and answers anything else with 404. It answers GET and HEAD. The
// endpoint is the path of the API on the same host, to which the pages send the mutations
// verifyEmail and resetPassword with POST.
//
// The one-time token is in the fragment of the link, #token=..., which browsers do not send to the
// server. So it is in no log, and the pages are the same for all users. Opening a link changes
// nothing, because the scanners of mail services open links too.
func Account(endpoint string) http.Handler {
	s := newSite(accountPolicy, "/account", loadAssets("icon.svg", "account/*.css", "account/*.js"))
	for _, name := range []string{"verify-email", "reset-password"} {
		// no-store, so that a later user of the browser cannot go back to a page with a token.
		s.page("/account/"+name, "no-store", endpoint, "account/layout.html",
			"account/"+name+".html")
	}
	return s
}

// AccountDocuments returns the GraphQL documents of the pages, for a server that answers only
// trusted documents.
func AccountDocuments() (documents []string) {
	script, err := files.ReadFile("account/account.js")
	if err != nil {
		panic(err) // cannot happen: it is embedded
	}
	for _, match := range regexp.MustCompile(`query: '([^']+)'`).FindAllSubmatch(script, -1) {
		documents = append(documents, string(match[1]))
	}
	return documents
}
