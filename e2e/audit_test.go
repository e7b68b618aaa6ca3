package e2e

import "testing"

// TestAudits runs every audit of npm's graphql-http for GraphQL over HTTP: what a server MUST,
// SHOULD and MAY do.
func TestAudits(t *testing.T) {
	t.Parallel()
	srv := mustServe(t)
	audits := mustRun(t, "audit.js", map[string]string{"api": srv.api})
	seen := 0
	for {
		var e struct{ Type, ID, Name, Status, Reason, Answer string }
		audits.next(&e)
		if e.Type == "done" {
			break
		}
		seen++
		if e.Status != "ok" {
			t.Errorf("%s: %s: %s: %s (%s)", e.ID, e.Name, e.Status, e.Reason, e.Answer)
		}
	}
	if seen != 61 { // of version 1.23.1
		t.Errorf("there were %d audits", seen)
	}
}
