package errs_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/errs"
)

func TestErrorKeepsItsCause(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("outer: %w", errs.Wrap(io.ErrUnexpectedEOF, errs.Unavailable, "try again"))
	if !errors.Is(err, io.ErrUnexpectedEOF) || !errs.Is(err, errs.Unavailable) ||
		errs.Is(err, errs.Internal) {
		t.Fatalf("cause or code lost: %v", err)
	}
}

func TestCorrectable(t *testing.T) {
	t.Parallel()
	var list errs.List
	if list.Err() != nil {
		t.Fatal("an empty list is not an error")
	}
	list.Add(errs.NotFound, "members.1.userId", "no such person")
	list.Add(errs.TooLong, "title", "too long")

	got := errs.Correctable(fmt.Errorf("outer: %w", list.Err()))
	if len(got) != 2 || !cmp.Equal(got[0].Path, []string{"members", "1", "userId"}) {
		t.Fatalf("got %v", got)
	}
	if got := errs.Correctable(errs.Input(errs.Required, "title", "needed")); len(got) != 1 {
		t.Fatalf("a single mistake is a list of one: %v", got)
	}
	for _, err := range []error{nil, io.EOF, errs.New(errs.NotFound, "gone")} {
		if got := errs.Correctable(err); got != nil {
			t.Errorf("a person cannot correct %v, got %v", err, got)
		}
	}
}
