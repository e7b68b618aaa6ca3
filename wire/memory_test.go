package wire

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"parley/wire/wiretest"
)

// mustServeInMemory is mustServe for a test in a synctest bubble.
func mustServeInMemory(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	f := newFixture(t, change...)
	m := wiretest.Listen()
	f.dialTo = m.Dial
	server := &http.Server{Handler: f}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(m) })
	t.Cleanup(func() {
		f.server.Drain(context.Background())
		_ = server.Close()
		serving.Wait()
	})
	return f
}
