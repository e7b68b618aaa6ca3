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

// search looks for requests that are dearer than those that are known. It writes documents at
// random, over the whole schema, and changes those that cost most: what makes a document dear is
// found by the cost itself.
func (b *bench) search(ctx context.Context, during time.Duration) error {
	a, err := b.abused(ctx)
	if err != nil {
		return err
	}
	defer func() { a.stop() }()
	s := &searcher{abuser: a, schema: graph.NewExecutableSchema(graph.Config{}).Schema()}
	b.note("abuse: searching for %v", during)
	for end := time.Now().Add(during); time.Now().Before(end) && ctx.Err() == nil; {
		if err := s.try(ctx); err != nil {
			return err
		}
	}
	rows := table{head: []string{"request", "by", "sent", "CPU", "peak memory", "answer", "answered with"}}
	for i, f := range s.dearest {
		row, err := a.row(ctx, dear{fmt.Sprint(i + 1), false, f.query, nil})
		if err != nil {
			return err
		}
		rows.add(row...)
	}
	b.printf("\n## The dearest of %d random requests\n\n", s.tried)
	rows.print(b.out)
	for i, f := range s.dearest {
		b.printf("\n%d. `%s`\n", i+1, f.query)
	}
	if s.largest > maxAnswerFound {
		return fmt.Errorf("a request was answered with %d bytes: `%s`", s.largest, s.largestQuery)
	}
	return ctx.Err()
}

const (
	// dearestKept are what the search goes on from.
	dearestKept = 12
	// genomeSize is how many decisions a document has at most. Beyond them it comes to its end.
	genomeSize = 600
	// maxAnswerFound is the bound of an answer, and what JSON adds to what is counted.
	maxAnswerFound = 2<<20 + 64<<10
)

// found is a document, the decisions that make it, and what it costs.
type found struct {
	genome []byte
	query  string
	cpu    time.Duration
}

type searcher struct {
	*abuser
	schema       *ast.Schema
	dearest      []found // first
	tried        int
	largest      int
	largestQuery string
}

// try writes one document and measures it, twice if it may be among the dearest: a busy machine
// makes one look dear.
func (s *searcher) try(ctx context.Context) error {
	f := found{genome: s.next()}
	w := &documentWriter{schema: s.schema, ids: s.ids, genome: f.genome}
	f.query = w.document()
	s.tried++
	for range 2 {
		cpu, err := s.cost(ctx, f.query)
		if err != nil {
			return err
		}
		if f.cpu == 0 || cpu < f.cpu {
			f.cpu = cpu
		}
		if len(s.dearest) == dearestKept && f.cpu <= s.dearest[dearestKept-1].cpu {
			return nil
		}
	}
	if slices.ContainsFunc(s.dearest, func(known found) bool { return known.query == f.query }) {
		return nil
	}
	s.dearest = append(s.dearest, f)
	slices.SortFunc(s.dearest, func(a, b found) int { return int(b.cpu - a.cpu) })
	s.dearest = s.dearest[:min(len(s.dearest), dearestKept)]
	return nil
}

func (s *searcher) cost(ctx context.Context, query string) (time.Duration, error) {
	body, err := dear{query: query}.body()
	if err != nil {
		return 0, err
	}
	begun, err := processCPU(s.pid())
	if err != nil {
		return 0, err
	}
	said, err := postAny(ctx, s.url, s.tokens[0], body)
	if err != nil {
		return 0, err
	}
	spent, err := processCPU(s.pid())
	if len(said) > s.largest {
		s.largest, s.largestQuery = len(said), query
	}
	return spent - begun, err
}

// next is a new genome: random, or a dear one with some decisions changed, or the halves of two.
func (s *searcher) next() []byte {
	genome := make([]byte, rand.IntN(genomeSize)+1)
	if len(s.dearest) == 0 || rand.IntN(4) == 0 {
		for i := range genome {
			genome[i] = byte(rand.Uint32())
		}
		return genome
	}
	genome = slices.Clone(s.dearest[rand.IntN(len(s.dearest))].genome)
	if rand.IntN(3) == 0 {
		other := s.dearest[rand.IntN(len(s.dearest))].genome
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

// documentWriter writes a query that fits the schema, by the decisions of a genome.
type documentWriter struct {
	schema  *ast.Schema
	ids     []string
	genome  []byte
	aliases int
	b       strings.Builder
}

// pick decides for one of n; 0 once there are no decisions left.
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

// selection writes one of an object, an interface or a union.
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
	// the same field with other arguments is refused without an alias
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
		if argument.Name == "last" && len(written) > 0 && strings.HasPrefix(written[len(written)-1], "first") {
			continue // a page has one of the two
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

// value is one that an argument takes; empty if it is better left out.
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
		return "" // of something else than a conversation
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
