package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// table is a Markdown table, padded so that it reads well as plain text too.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print writes the table. The first column and columns without figures are aligned left, the others
// right.
func (t *table) print(w io.Writer) {
	widths := make([]int, len(t.head))
	right := make([]bool, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), len("--:"))
			right[i] = right[i] || i > 0 && strings.ContainsAny(cell[:1], "0123456789")
		}
	}
	line := func(cells []string) {
		for i, cell := range cells {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cell = padding + cell
			} else {
				cell += padding
			}
			fmt.Fprintf(w, "| %s ", cell)
		}
		fmt.Fprintln(w, "|")
	}
	rule := make([]string, len(t.head))
	for i, width := range widths {
		rule[i] = strings.Repeat("-", width)
		if right[i] {
			rule[i] = rule[i][1:] + ":"
		}
	}
	line(t.head)
	line(rule)
	for _, row := range t.rows {
		line(row)
	}
}

// pair is a figure of Parley and of its yardstick, in each round.
type pair struct{ parley, yardstick []float64 }

// ratio returns the median, lowest and highest of the rounds' ratios. It is not the ratio of the
// medians: the two sides of a round are measured right after each other, so that other load on the
// machine affects both.
func (p pair) ratio() string {
	ratios := make([]float64, len(p.parley))
	for i := range ratios {
		ratios[i] = p.parley[i] / p.yardstick[i]
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
}

// inTurns measures both sides of a pair, one after the other in each round.
func inTurns[T any](
	rounds int, parley, yardstick func() (T, error),
) (ofParley, ofYardstick []T, err error) {
	for range rounds {
		p, err := parley()
		if err != nil {
			return nil, nil, err
		}
		y, err := yardstick()
		if err != nil {
			return nil, nil, err
		}
		ofParley, ofYardstick = append(ofParley, p), append(ofYardstick, y)
	}
	return ofParley, ofYardstick, nil
}

// figure picks one figure of both sides' rounds.
func figure[T any](ofParley, ofYardstick []T, pick func(T) float64) (p pair) {
	for i := range ofParley {
		p.parley = append(p.parley, pick(ofParley[i]))
		p.yardstick = append(p.yardstick, pick(ofYardstick[i]))
	}
	return p
}

// percentile returns the value of sorted ones that p percent of them do not exceed (nearest rank).
func percentile[T int32 | float64](sorted []T, p int) T {
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return math.NaN()
	}
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// duration formats a time with three significant digits.
func duration(d time.Duration) string {
	switch us := float64(d) / float64(time.Microsecond); {
	case us < 9.995:
		return fmt.Sprintf("%.2f µs", us)
	case us < 99.95:
		return fmt.Sprintf("%.1f µs", us)
	case us < 999.5:
		return fmt.Sprintf("%.0f µs", us)
	default:
		return fmt.Sprintf("%.2f ms", us/1000)
	}
}

// medianDuration formats the median of times in seconds.
func medianDuration(values []float64) string { return duration(seconds(median(values))) }
