package document_test

import (
	"fmt"
	"strings"
	"testing"

	"parley/document"
)

// Many operations share a fragment, and validation finds its errors again in each.
func TestRepeatedErrorsEndValidation(t *testing.T) {
	t.Parallel()
	r := mustReader(t, document.Options{})
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "query Q%d { ...F } ", i)
	}
	b.WriteString("fragment F on Query { a: x b: y }")
	_, list := r.Validate(b.String())
	if len(list) != 3 || !strings.HasPrefix(list[2].Message,
		"Validation ended here, after 2 errors.") {
		t.Errorf("got %v", messages(list))
	}
}
