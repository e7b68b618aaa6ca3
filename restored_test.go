package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"parley/store/storetest"
)

// A database is taken back to a backup under the whole program, and an operator runs `parley
// restored` while it serves again.
func TestRestored(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{
		"SQLite": storetest.SQLiteURL, "PostgreSQL": storetest.PostgresURL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := url(t)
			testRestored(t, database, []string{
				"--data-dir=" + t.TempDir(), "--database-url=" + database, "--rate-limits=false",
				"--reconcile-every=50ms",
			})
		})
	}
}

func testRestored(t *testing.T, database string, args []string) {
	t.Helper()
	base, log, stop := mustStart(t, args...)
	do := func(token, path, mutation string, values ...any) string {
		t.Helper()
		body := ask(t, base, token, "application/json",
			"mutation { "+fmt.Sprintf(mutation, values...)+" }")
		return answerOf(t, body, path)
	}
	login := func(nickname string) (token, session string) {
		t.Helper()
		body := ask(t, base, "", "application/json", fmt.Sprintf(`mutation { login(input: {
			email: "%[1]s@example.org", password: "of %[1]s alone"}) { tokens { accessToken } } }`,
			nickname))
		token = answerOf(t, body, "login.tokens.accessToken")
		claims, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		return token, regexp.MustCompile("session_[0-9a-z]+").FindString(string(claims))
	}
	ann, _ := mustRegister(t, base, "ann")
	ben, benID := mustRegister(t, base, "ben")
	cat, catID := mustRegister(t, base, "cat")
	phone, phoneSession := login("ann")
	const create = `createConversation(input: {members: [{userId: %q}]}) { conversation { id } }`
	group := do(ann, "createConversation.conversation.id", create, benID)
	do(ann, "addMembers", `addMembers(input: {conversationId: %q, members: [{userId: %q}]}) {
		conversation { id } }`, group, catID)
	const send = `sendMessage(input: {conversationId: %q, content: "hello"}) { message { %s } }`
	message := do(ann, "sendMessage.message.id", send, group, "id")

	since := time.Now()
	restore := storetest.Backup(t, database)
	do(ann, "deleteMessage.message.id", `deleteMessage(input: {messageId: %q}) { message { id } }`,
		message)
	do(ann, "sendMessage.message.id", send, group, "id")
	do(ann, "removeMember", `removeMember(input: {conversationId: %q, userId: %q}) {
		conversation { id } }`, group, benID)
	do(phone, "logout", `logout { userErrors { code } }`)
	do(ben, "changePassword", `changePassword(input: {oldPassword: "of ben alone",
		newPassword: "another of ben"}) { userErrors { code } }`)
	do(cat, "deleteAccount", `deleteAccount(input: {password: "of cat alone"}) {
		userErrors { code } }`)
	stop()
	lines := filepath.Join(t.TempDir(), "parley.log")
	if err := os.WriteFile(lines, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	restore(t)

	base, _, _ = mustStart(t, args...)
	viewer := func(token string) string {
		t.Helper()
		return answerOf(t, ask(t, base, token, "application/json",
			"{ viewer { user { nickname } } }"), "viewer")
	}
	if got := viewer(phone); got == "<nil>" {
		t.Error("the session is not live again, so this test proves nothing")
	}
	restored := func(more ...string) string {
		t.Helper()
		out := newOutput()
		command := append([]string{
			"restored", "--database-url=" + database, "--since=" + since.Format(time.RFC3339Nano),
		}, more...)
		if code := run(t.Context(), command, out, out); code != 0 {
			t.Fatalf("exit code %d: %s", code, out)
		}
		return out.String()
	}
	wantAll := func(text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in:\n%s", w, text)
			}
		}
	}
	wantAll(restored(), "Conversations that leave out 100000 numbers: 1.", "Without --log")
	wantAll(restored("--log="+lines), "Nothing is raised twice",
		"Sessions that had ended are live again (2).", phoneSession, // and that of cat
		"Accounts have the password from before a change (1).", benID,
		"Accounts that were removed are there again (1).", catID,
		"Members who left or were removed are members again (1).", benID+" in "+group,
		"Messages that were deleted have their text again (1).", message+" in "+group)
	seq := do(ann, "sendMessage.message.seq", send, group, "seq")
	if seq != "100004" { // after three events of the backup
		t.Errorf("the next message has seq %s", seq)
	}

	wantAll(restored("--log="+lines, "--redo"), "Sessions that are ended again: 2.")
	do(ann, "deleteMessage.message.id", `deleteMessage(input: {messageId: %q}) { message { id } }`,
		message)
	if left := restored("--log=" + lines); strings.Contains(left, phoneSession) ||
		strings.Contains(left, message) || !strings.Contains(left, benID) {
		t.Errorf("after it is done again:\n%s", left)
	}
	out := newOutput()
	if code := run(t.Context(), []string{
		"restored", "--database-url=" + database, "--since=" + time.Now().Add(time.Hour).
			Format(time.RFC3339),
	}, out, out); code == 0 || !strings.Contains(out.String(), "in the future") {
		t.Errorf("--since in the future: %d %s", code, out)
	}
}
