package document

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/vektah/gqlparser/v2/ast"
)

const (
	// keptBytes bounds the memory of the documents that are kept, as far as sizeOf knows it.
	keptBytes = 16 << 20
	// maxKeptBytes is the size of the largest one that is kept, some 800 fields: one client could
	// otherwise push out what all others use.
	maxKeptBytes = 256 << 10
)

// cache keeps valid documents by their text. The least recently used go first.
type cache struct {
	mu    sync.Mutex // guards what follows
	docs  *simplelru.LRU[string, *kept]
	bytes int
	limit int
}

type kept struct {
	doc   *ast.QueryDocument
	bytes int
}

func newCache(limit int) *cache {
	c := &cache{limit: limit}
	// The number is never reached: every document has a size.
	c.docs, _ = simplelru.NewLRU(limit, func(_ string, k *kept) { c.bytes -= k.bytes })
	return c
}

func (c *cache) get(text string) *ast.QueryDocument {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.docs.Get(text)
	if !ok {
		return nil
	}
	return k.doc
}

func (c *cache) add(text string, doc *ast.QueryDocument) {
	k := &kept{doc, sizeOf(text, doc)}
	if k.bytes > maxKeptBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.docs.Contains(text) { // two clients sent it at once
		return
	}
	c.docs.Add(text, k)
	c.bytes += k.bytes
	for c.bytes > c.limit {
		c.docs.RemoveOldest()
	}
}

// sizeOf is what a document takes in memory, at most: the largest nodes, inline fragments, take
// some 550 bytes. TestSizesOfDocuments holds it against the heap.
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
