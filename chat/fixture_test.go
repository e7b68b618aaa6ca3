package chat_test

import (
	"testing"

	"parley/chat/chattest"
	"parley/store"
)

func TestMain(m *testing.M) { chattest.Main(m) }

// fixture is the one of package chattest, with what only the tests of this package need.
type fixture struct{ *chattest.Fixture }

func mustFixture(t *testing.T, db *store.DB, nicknames ...string) *fixture {
	t.Helper()
	return &fixture{chattest.New(t, db, nicknames...)}
}

func mustFixtureWith(
	t *testing.T, db *store.DB, opts chattest.Options, nicknames ...string,
) *fixture {
	t.Helper()
	return &fixture{chattest.NewWith(t, db, opts, nicknames...)}
}
