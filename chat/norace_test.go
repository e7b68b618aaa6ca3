//go:build !race

package chat

// slowness is how much less tests that count do with the race detector.
const slowness = 1
