package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(i+1))
	}
	for _, test := range []struct {
		sorted []float64
		p      int
		want   float64
	}{
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0, 1},
		{[]float64{7}, 50, 7},
		{[]float64{7}, 99, 7},
		{[]float64{1, 2, 3}, 50, 2},
		{hundred[:50], 99, 50},
	} {
		if got := percentile(test.sorted, test.p); got != test.want {
			t.Errorf("%d of %d values: %v, want %v", test.p, len(test.sorted), got, test.want)
		}
	}
}

func TestRatio(t *testing.T) {
	t.Parallel()
	p := pair{parley: []float64{2, 30, 4}, yardstick: []float64{1, 10, 4}}
	if got, want := p.ratio(), "2.00 (1.00–3.00)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	table := table{head: []string{"request", "CPU"}}
	table.add("a", duration(1500*time.Microsecond))
	table.add("longer µ", duration(9*time.Microsecond))
	var got strings.Builder
	table.print(&got)
	want := `| request  |     CPU |
| -------- | ------: |
| a        | 1.50 ms |
| longer µ | 9.00 µs |
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
