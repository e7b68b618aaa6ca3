package verify

import "fmt"

// violation is one violated invariant, with what people need to look for its cause.
type violation struct {
	kind         violationKind
	conversation string
	seq          int64
	stream       string // or another source, such as "the list of messages"
	expected     string
	came         string
	steps        []step // the last steps of the stream, up to the violation
}

// violationKind names an invariant, in the words of the report.
type violationKind string

const (
	lost       violationKind = "lost"
	doubled    violationKind = "doubled"
	reordered  violationKind = "reordered"
	leaked     violationKind = "leaked" // shown to a client that may not see it
	altered    violationKind = "altered"
	invented   violationKind = "invented" // no client caused it
	refused    violationKind = "refused"
	unexpected violationKind = "unexpected" // the API does not allow this item here
	mixed      violationKind = "mixed"      // events of two histories, and not told between them
	tooEarly   violationKind = "too early"  // CaughtUp came before the backlog
)

// of returns a copy of v with its findings.
func (v violation) of(kind violationKind, expected, came string) violation {
	v.kind, v.expected, v.came = kind, expected, came
	return v
}

// quoted returns the beginning of a content in quotes: the rest is padding.
func quoted(content string) string {
	if len(content) > 60 {
		content = content[:60] + "…"
	}
	return fmt.Sprintf("%q", content)
}
