package document

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/vektah/gqlparser/v2/ast"
)

const (
	// cacheBytes limits the memory of all cached documents, as sizeOf estimates it.
	cacheBytes = 16 << 20
	// maxCachedBytes is the size of the largest document that is cached, some 800 fields. Without
	// it, one client could evict the documents of all others.
	maxCachedBytes = 256 << 10
)

// cache has valid documents by their text. It evicts the least recently used.
type cache struct {
	mu    sync.Mutex // guards what follows
	docs  *simplelru.LRU[string, *cached]
	bytes int
	limit int
}

type cached struct {
	doc   *ast.QueryDocument
	bytes int
}

func newCache(limit int) *cache {
	c := &cache{limit: limit}
	// The cache never has so many documents, because each takes more than a byte.
	c.docs, _ = simplelru.NewLRU(limit,
		func(_ string, evicted *cached) { c.bytes -= evicted.bytes })
	return c
}

func (c *cache) get(text string) *ast.QueryDocument {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.docs.Get(text)
	if !ok {
		return nil
	}
	return found.doc
}

func (c *cache) add(text string, doc *ast.QueryDocument) {
	added := &cached{doc, sizeOf(text, doc)}
	if added.bytes > maxCachedBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.docs.Contains(text) { // another request added it meanwhile
		return
	}
	c.docs.Add(text, added)
	c.bytes += added.bytes
	for c.bytes > c.limit {
		c.docs.RemoveOldest()
	}
}

// sizeOf is an upper bound of a document's size in memory. The largest nodes, inline fragments,
// take some 550 bytes. TestSizesOfDocuments compares it with the heap.
func sizeOf(text string, doc *ast.QueryDocument) int {
	const perDocument, perNode = 2 << 10, 600
	return perDocument + len(text) + perNode*nodesOf(doc)
}

func nodesOf(doc *ast.QueryDocument) (n int) {
	var values func(*ast.Value)
	values = func(v *ast.Value) {
		if n++; v != nil {
			for _, child := range v.Children {
				values(child.Value)
			}
		}
	}
	arguments := func(list ast.ArgumentList) {
		for _, a := range list {
			values(a.Value)
		}
	}
	directives := func(list ast.DirectiveList) {
		n += len(list)
		for _, d := range list {
			arguments(d.Arguments)
		}
	}
	var selections func(ast.SelectionSet)
	selections = func(set ast.SelectionSet) {
		n += len(set)
		for _, selection := range set {
			switch s := selection.(type) {
			case *ast.Field:
				arguments(s.Arguments)
				directives(s.Directives)
				selections(s.SelectionSet)
			case *ast.InlineFragment:
				directives(s.Directives)
				selections(s.SelectionSet)
			case *ast.FragmentSpread:
				directives(s.Directives)
			}
		}
	}
	for _, op := range doc.Operations {
		for _, v := range op.VariableDefinitions {
			values(v.DefaultValue)
			directives(v.Directives)
		}
		directives(op.Directives)
		selections(op.SelectionSet)
		n++
	}
	for _, f := range doc.Fragments {
		directives(f.Directives)
		selections(f.SelectionSet)
		n++
	}
	return n
}
