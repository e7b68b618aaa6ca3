//go:build !race

package wire

// slowness is how much less tests that count do with the race detector.
const slowness = 1
