package process

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	t.Parallel()
	var got []string
	l := &Lines{Each: func(line []byte) { got = append(got, string(line)) }}
	for _, part := range []string{"a", "b\nc\n", "", "\n", "d", "\ne"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("%q: %d, %v", part, n, err)
		}
	}
	if diff := cmp.Diff([]string{"ab", "c", "", "d"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("PARLEY_ADDR", "from the shell")
	t.Setenv("OTHER", "kept")
	env := Environment("PARLEY_DATA_DIR=x")
	parley := slices.DeleteFunc(slices.Clone(env),
		func(s string) bool { return !strings.HasPrefix(s, "PARLEY_") })
	if !slices.Contains(env, "OTHER=kept") || !slices.Equal(parley, []string{"PARLEY_DATA_DIR=x"}) {
		t.Errorf("%q", env)
	}
}

func TestParleyAPI(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		`{"level":"INFO","msg":"parley is up","api":"http://127.0.0.1:1/graphql"}`: "http://127.0.0.1:1/graphql",
		`{"level":"INFO","msg":"another","api":"http://127.0.0.1:1/graphql"}`:      "",
		"panic: no JSON": "",
	} {
		if got := ParleyAPI(line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
