package restored

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/model"
)

// What package slog writes is read as it was, in both formats, and after what journald or Docker
// put before it.
func TestReadLog(t *testing.T) {
	t.Parallel()
	user := model.NewUserID()
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		for _, prefix := range []string{"", "Nov 30 12:00:00 host parley[42]: ", "node-1  | "} {
			t.Run(name+" "+prefix, func(t *testing.T) {
				t.Parallel()
				var b bytes.Buffer
				log := slog.New(handler(&b))
				log.Info("message deleted", "user", user, "odd key", "a \"quoted\"\nline = é\x00",
					"empty", "")
				var text strings.Builder
				text.WriteString("something else\ntime=\n{\"time\": 1}\ntime=now msg=x\n\n")
				text.WriteString(prefix + b.String())
				text.WriteString("time=2026-11-30T12:00:00Z msg=\"cut\n")
				var got []line
				if err := readLog(strings.NewReader(text.String()),
					func(l line) { got = append(got, l) }); err != nil {
					t.Fatal(err)
				}
				if len(got) != 1 || got[0].message != "message deleted" || got[0].at.IsZero() {
					t.Fatalf("read %+v from %s", got, text.String())
				}
				want := map[string]string{
					"user": user.String(), "odd key": "a \"quoted\"\nline = é\x00", "empty": "",
					"msg": "message deleted", "level": "INFO",
				}
				delete(got[0].values, "time")
				if diff := cmp.Diff(want, got[0].values); diff != "" {
					t.Errorf("values (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// No text panics.
func FuzzReadLine(f *testing.F) {
	f.Add(`time=2026-11-30T12:00:00.123Z level=INFO msg=audit action=logged_out user=user_x`)
	f.Add(`{"time":"2026-11-30T12:00:00.123Z","msg":"audit"}`)
	f.Add(`time="`)
	f.Add(`time=2026-11-30T12:00:00Z msg="\x"`)
	f.Fuzz(func(t *testing.T, text string) {
		if l, ok := readLine(text); ok && l.message == "" {
			t.Errorf("%q has no message", text)
		}
	})
}
