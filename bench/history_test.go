package main

import (
	"errors"
	"testing"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		received []int64
		want     totals
	}{
		"complete":               {[]int64{11, 12, 13}, totals{deliveries: 3}},
		"nothing":                {nil, totals{lost: 3}},
		"lost in the middle":     {[]int64{11, 13}, totals{deliveries: 2, lost: 1}},
		"lost at the end":        {[]int64{11, 12}, totals{deliveries: 2, lost: 1}},
		"doubled":                {[]int64{11, 12, 12, 13}, totals{deliveries: 4, doubled: 1}},
		"reordered":              {[]int64{12, 11, 13}, totals{deliveries: 3, reordered: 1}},
		"from before the follow": {[]int64{10, 11, 12, 13}, totals{deliveries: 4, doubled: 1}},
	} {
		h := newHistory(10)
		for _, seq := range test.received {
			h.add(seq)
		}
		got := total([]*history{h}, 13)
		if got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
		if err := got.broken(); errors.Is(err, errPromise) != (name != "complete") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
