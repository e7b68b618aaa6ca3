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

// nodes are the servers, by number. A node that is started again may have another address.
type nodes struct {
	mu   sync.Mutex // guards what follows
	urls []string   // of the API
}

// newNodes takes addresses with or without the path of the API.
func newNodes(addresses []string) (*nodes, error) {
	n := &nodes{}
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not the address of a server, like http://localhost:8080",
				address)
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

// url returns the address of node i modulo the number of nodes.
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

// wait waits for a time, and reports false if ctx ends first.
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
