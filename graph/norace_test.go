//go:build !race

package graph_test

// slowness is how much less tests that count do with the race detector.
const slowness = 1
