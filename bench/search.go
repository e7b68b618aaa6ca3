package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/vektah/gqlparser/v2/ast"

	"parley/graph"
)

// search looks for requests that are more expensive than the known ones. It writes random documents
// over the whole schema, and mutates the most expensive ones.
func (b *bench) search(ctx context.Context, during time.Duration) error {
	a, err := b.startAbuse(ctx)
	if err != nil {
		return err
	}
	defer func() { a.stop() }()
	s := &searcher{abuser: a, schema: graph.NewExecutableSchema(graph.Config{}).Schema()}
	b.note("abuse: searching for %v", during)
	for end := time.Now().Add(during); time.Now().Before(end) && ctx.Err() == nil; {
		if err := s.step(ctx); err != nil {
			return err
		}
	}
	rows := table{head: requestHead()}
	for i, c := range s.best {
		row, err := a.requestRow(ctx, request{name: fmt.Sprint(i + 1), query: c.query})
		if err != nil {
			return err
		}
		rows.add(row...)
	}
	b.printf("\n## The dearest of %d random requests\n\n", s.measured)
	rows.print(b.out)
	for i, c := range s.best {
		b.printf("\n%d. `%s`\n", i+1, c.query)
	}
	if s.largest > maxAnswerFound {
		return fmt.Errorf("a request was answered with %d bytes: `%s`", s.largest, s.largestQuery)
	}
	return ctx.Err()
}

const (
	// keptCandidates is how many candidates the search continues from.
	keptCandidates = 12
	// genomeSize is the most decisions of a document. After the last one the document ends.
	genomeSize = 600
	// maxAnswerFound is the bound of an answer, and what JSON adds to the counted bytes.
	maxAnswerFound = 2<<20 + 64<<10
)

// candidate is a document, the decisions that it was written by, and its cost.
type candidate struct {
	genome []byte
	query  string
	cpu    time.Duration
}

type searcher struct {
	*abuser
	schema       *ast.Schema
	best         []candidate // the most expensive first
	measured     int
	largest      int
	largestQuery string
}

// step writes one document and measures it: twice if it may be among the most expensive, because on
// a busy machine a request costs more.
func (s *searcher) step(ctx context.Context) error {
	c := candidate{genome: s.next()}
	w := &documentWriter{schema: s.schema, ids: s.ids, genome: c.genome}
	c.query = w.document()
	s.measured++
	for range 2 {
		cpu, err := s.costOf(ctx, c.query)
		if err != nil {
			return err
		}
		if c.cpu == 0 || cpu < c.cpu {
			c.cpu = cpu
		}
		if len(s.best) == keptCandidates && c.cpu <= s.best[keptCandidates-1].cpu {
			return nil
		}
	}
	if slices.ContainsFunc(s.best, func(known candidate) bool { return known.query == c.query }) {
		return nil
	}
	s.best = append(s.best, c)
	slices.SortFunc(s.best, func(a, b candidate) int { return int(b.cpu - a.cpu) })
	s.best = s.best[:min(len(s.best), keptCandidates)]
	return nil
}

// costOf returns the server's CPU time for one query.
func (s *searcher) costOf(ctx context.Context, query string) (time.Duration, error) {
	body, err := request{query: query}.body()
	if err != nil {
		return 0, err
	}
	cpu, answer, err := s.cost(ctx, s.tokens[0], body)
	if len(answer) > s.largest {
		s.largest, s.largestQuery = len(answer), query
	}
	return cpu, err
}

// next returns a genome: a random one, or one of the best with some decisions changed, or parts of
// two of the best.
func (s *searcher) next() []byte {
	genome := make([]byte, rand.IntN(genomeSize)+1)
	if len(s.best) == 0 || rand.IntN(4) == 0 {
		for i := range genome {
			genome[i] = byte(rand.Uint32())
		}
		return genome
	}
	genome = slices.Clone(s.best[rand.IntN(len(s.best))].genome)
	if rand.IntN(3) == 0 {
		other := s.best[rand.IntN(len(s.best))].genome
		at := rand.IntN(min(len(genome), len(other)))
		genome = slices.Concat(genome[:at], other[at:])
	}
	for range rand.IntN(8) + 1 {
		genome[rand.IntN(len(genome))] = byte(rand.Uint32())
	}
	if rand.IntN(3) == 0 {
		at := rand.IntN(len(genome))
		genome = slices.Insert(genome, at, genome[at:min(len(genome), at+20)]...)
	}
	return genome[:min(len(genome), genomeSize)]
}

// documentWriter writes a query that is valid under the schema, by the decisions of a genome.
type documentWriter struct {
	schema  *ast.Schema
	ids     []string
	genome  []byte
	aliases int
	b       strings.Builder
}

// pick returns the next decision, one of n. It is 0 if no decision is left.
func (w *documentWriter) pick(n int) int {
	if len(w.genome) == 0 {
		return 0
	}
	decision := int(w.genome[0]) % n
	w.genome = w.genome[1:]
	return decision
}

func (w *documentWriter) document() string {
	w.selection(w.schema.Query, 14)
	return w.b.String()
}

// selection writes a selection of an object, an interface or a union.
func (w *documentWriter) selection(on *ast.Definition, levels int) {
	w.b.WriteString("{ __typename")
	for range w.pick(6) + 1 {
		if len(w.genome) == 0 {
			break
		}
		possible := w.schema.GetPossibleTypes(on)
		switch kind := w.pick(8); {
		case kind == 0 && len(possible) > 1 || len(on.Fields) == 0:
			to := possible[w.pick(len(possible))]
			w.b.WriteString(" ... on " + to.Name + " ")
			w.selection(to, levels)
		case len(on.Fields) > 0:
			w.field(on.Fields[w.pick(len(on.Fields))], levels)
		}
	}
	w.b.WriteString(" }")
}

func (w *documentWriter) field(f *ast.FieldDefinition, levels int) {
	below := w.schema.Types[f.Type.Name()]
	if below.IsCompositeType() && levels == 0 || strings.HasPrefix(f.Name, "__") && w.pick(8) > 0 {
		return
	}
	w.b.WriteString(" ")
	// Without aliases, two fields with different arguments would be refused.
	if w.aliases < 29 && w.pick(3) > 0 {
		w.aliases++
		fmt.Fprintf(&w.b, "a%d: ", w.aliases)
	}
	w.b.WriteString(f.Name)
	w.arguments(f.Arguments)
	if below.IsCompositeType() {
		w.b.WriteString(" ")
		w.selection(below, levels-1)
	}
}

func (w *documentWriter) arguments(list ast.ArgumentDefinitionList) {
	var written []string
	for _, argument := range list {
		if argument.Name == "last" && len(written) > 0 &&
			strings.HasPrefix(written[len(written)-1], "first") {
			continue // a page takes one of the two
		}
		if argument.Type.NonNull || w.pick(3) > 0 {
			if value := w.value(argument); value != "" {
				written = append(written, argument.Name+": "+value)
			}
		}
	}
	if len(written) > 0 {
		w.b.WriteString("(" + strings.Join(written, ", ") + ")")
	}
}

// value returns a value for an argument: "" if the argument is better left out.
func (w *documentWriter) value(argument *ast.ArgumentDefinition) string {
	switch t := argument.Type; {
	case t.Elem != nil:
		ids := make([]string, w.pick(100)+1)
		for i := range ids {
			ids[i] = fmt.Sprintf("%q", w.ids[i%len(w.ids)])
		}
		return "[" + strings.Join(ids, ", ") + "]"
	case t.Name() == "Int":
		return fmt.Sprint([]int{100, 98, 50, 20, 5, 1, 0}[w.pick(7)])
	case t.Name() == "ID" && !t.NonNull && argument.Name != "conversationId":
		return "" // an id of another type than a conversation
	case t.Name() == "ID":
		return fmt.Sprintf("%q", w.ids[w.pick(len(w.ids))])
	case t.Name() == "Boolean":
		return []string{"true", "false"}[w.pick(2)]
	case argument.Name == "query" || argument.Name == "search":
		return []string{`"common"`, `"a"`, `"the common word"`, `"😀"`}[w.pick(4)]
	case argument.Name == "name":
		return []string{`"Message"`, `"Query"`, `"Conversation"`}[w.pick(3)]
	}
	return ""
}
