package verify

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"
)

// nodes are the servers, by number. One that is started again may have another address.
type nodes struct {
	mu   sync.Mutex // guards what follows
	urls []string   // of the API
}

// newNodes takes addresses as people write them: the path of the API may be left out.
func newNodes(addresses []string) (*nodes, error) {
	n := &nodes{}
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not the address of a server, like http://localhost:8080", address)
		}
		if strings.Trim(u.Path, "/") == "" {
			u.Path = "/graphql"
		}
		n.urls = append(n.urls, u.String())
	}
	return n, nil
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.urls)
}

// url is the address of a node; numbers beyond the last begin anew.
func (n *nodes) url(i int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.urls[i%len(n.urls)]
}

func (n *nodes) set(i int, url string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.urls[i] = url
}

var errOver = errors.New("the time is over")

// wait lets time pass, and reports false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
