package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"parley/store/privatepg"
	"parley/store/storetest"
)

// The server goes over to another primary without a restart. Meanwhile it is not ready, and asks
// clients to try again.
func TestSwitchover(t *testing.T) {
	t.Parallel()
	if storetest.Skipped("postgres") {
		t.Skipf("%s names postgres", storetest.Skip)
	}
	primary, err := privatepg.Start(t.Context(), "fsync = off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = primary.Stop() })
	standby, err := primary.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Stop() })
	base, log, stop := mustStart(t, "--data-dir="+t.TempDir(),
		"--database-url="+privatepg.URL("postgres", primary, standby))
	ready := func(status int, body string) {
		t.Helper()
		if gotStatus, got := get(t, base+"/readyz"); gotStatus != status || got != body+"\n" {
			t.Errorf("/readyz: %d %q, want %d %q", gotStatus, got, status, body)
		}
	}
	ann, _ := mustRegister(t, base, "ann")
	_, benID := mustRegister(t, base, "ben")
	conversation := answerOf(t, ask(t, base, ann, "application/json", fmt.Sprintf(
		`mutation { openDirectConversation(input: {userId: %q}) { conversation { id } } }`, benID)),
		"openDirectConversation.conversation.id")
	type answer struct {
		Data struct {
			SendMessage struct{ Message struct{ ID string } }
		}
		Errors []struct {
			Extensions struct {
				Code         string
				RetryAfterMs int
			}
		}
	}
	send := func(key string) (a answer) {
		t.Helper()
		if err := json.NewDecoder(ask(t, base, ann, "application/json", fmt.Sprintf(
			`mutation { sendMessage(input: {conversationId: %q, content: %q, idempotencyKey: %[2]q}) {
				message { id } } }`, conversation, key))).Decode(&a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	wantUnavailable := func(a answer) {
		t.Helper()
		if len(a.Errors) != 1 || a.Errors[0].Extensions.Code != "UNAVAILABLE" ||
			a.Errors[0].Extensions.RetryAfterMs < 1000 {
			t.Errorf("got %+v", a)
		}
	}
	stored := func(a answer) (id string) {
		t.Helper()
		if len(a.Errors) > 0 || a.Data.SendMessage.Message.ID == "" {
			t.Fatalf("got %+v", a)
		}
		return a.Data.SendMessage.Message.ID
	}
	ready(200, "ok")
	before := stored(send("before"))

	if err := primary.SetReadOnly(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	ready(503, "the database is read-only")
	wantUnavailable(send("meanwhile"))
	// Now its connections are closed, and no server takes new ones.
	ready(503, "the database is read-only")
	if err := errors.Join(standby.CatchUp(t.Context()), standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	ready(200, "ok")
	meanwhile := stored(send("meanwhile"))
	if again := stored(send("meanwhile")); again != meanwhile {
		t.Errorf("it is stored twice: %s and %s", meanwhile, again)
	}
	if again := stored(send("before")); again != before {
		t.Errorf("it is stored twice: %s and %s", before, again)
	}

	// The roles are exchanged again, and the primary crashes this time.
	if err := primary.Follow(t.Context(), standby); err != nil {
		t.Fatal(err)
	}
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(send("later"))
	ready(503, "the database is read-only") // the standby
	if err := primary.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	ready(200, "ok")
	stored(send("later"))
	if again := stored(send("meanwhile")); again != meanwhile {
		t.Errorf("it is stored twice: %s and %s", meanwhile, again)
	}
	log.mustMatch(t, "connecting to the database again")
	if code := stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := log.String(); strings.Contains(got, "internal error") {
		t.Error(got)
	}
}
