package document

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/vektah/gqlparser/v2/ast"
)

const (
	// keptBytes bounds the documents that are kept, by what they take in memory as far as costOf knows.
	keptBytes = 16 << 20
	// maxKept is the largest text that is kept: one client could otherwise push out what all others use.
	maxKept = 8 << 10
)

// cache keeps valid documents by their text; those that were not used for longest go first.
type cache struct {
	mu    sync.Mutex // guards what follows
	docs  *simplelru.LRU[string, *ast.QueryDocument]
	bytes int
	limit int
}

func newCache(limit int) *cache {
	c := &cache{limit: limit}
	c.docs, _ = simplelru.NewLRU(limit, func(text string, _ *ast.QueryDocument) { c.bytes -= costOf(text) })
	return c
}

// costOf is what a document takes in memory: its nodes are up to 30 times its text, measured on documents of one-letter
// fields, and no document takes less than a few KB.
func costOf(text string) int { return 4<<10 + 30*len(text) }

func (c *cache) get(text string) *ast.QueryDocument {
	c.mu.Lock()
	defer c.mu.Unlock()
	doc, _ := c.docs.Get(text)
	return doc
}

func (c *cache) add(text string, doc *ast.QueryDocument) {
	if len(text) > maxKept {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.docs.Contains(text) {
		c.bytes += costOf(text)
	}
	c.docs.Add(text, doc)
	for c.bytes > c.limit {
		c.docs.RemoveOldest()
	}
}
