package config_test

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"parley/config"
)

// parse reads a command line, and validates it, as the program does.
func parse(t *testing.T, args ...string) (*config.Settings, error) {
	t.Helper()
	s := new(config.Settings)
	parser, err := kong.New(s)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return s, err
}

func TestTheDefaultsAreValid(t *testing.T) {
	t.Parallel()
	s, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.DatabaseURL, "sqlite:") || !strings.HasSuffix(s.DatabaseURL, "/data/parley.db") || s.Postgres() {
		t.Errorf("the database is %s", s.DatabaseURL)
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	t.Parallel()
	for flag, variable := range map[string]string{
		"--database-url=mysql://x":              "PARLEY_DATABASE_URL",
		"--jwt-secret=short":                    "PARLEY_JWT_SECRET",
		"--access-ttl=0s":                       "PARLEY_ACCESS_TTL",
		"--access-ttl=800h":                     "PARLEY_ACCESS_TTL",
		"--stop-timeout=-1s":                    "PARLEY_STOP_TIMEOUT",
		"--drain-spread=-1s":                    "PARLEY_DRAIN_SPREAD",
		"--issuer=":                             "PARLEY_ISSUER",
		"--max-depth=0":                         "PARLEY_MAX_DEPTH",
		"--max-db-conns=1":                      "PARLEY_MAX_DB_CONNS",
		"--allowed-origins=app.example.org":     "PARLEY_ALLOWED_ORIGINS",
		"--allowed-origins=https://a.example/x": "PARLEY_ALLOWED_ORIGINS",
	} {
		if _, err := parse(t, flag); err == nil || !strings.Contains(err.Error(), variable+":") {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, flag := range []string{
		"--allowed-origins=*", "--allowed-origins=https://a.example,http://localhost:*", "--database-url=postgres://h/x",
	} {
		if _, err := parse(t, flag); err != nil {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestDatabaseHidesThePassword(t *testing.T) {
	t.Parallel()
	s, err := parse(t, "--database-url=postgres://ann:secret@db.example/parley")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Database(); strings.Contains(got, "secret") ||
		!strings.Contains(got, "db.example/parley") {
		t.Errorf("got %s", got)
	}
}

func TestSettingsThatDependOnOthers(t *testing.T) {
	t.Parallel()
	s, err := parse(t, "--stop-timeout=2s", "--drain-spread=5s", "--trusted-documents=documents.json")
	if err != nil {
		t.Fatal(err)
	}
	if s.DrainSpread != s.StopTimeout/2 {
		t.Errorf("connections are sent away for %v of %v", s.DrainSpread, s.StopTimeout)
	}
	if s.Playground {
		t.Error("the playground is on, and could ask for nothing")
	}
}
