//go:build race

// Package race tells tests whether the race detector slows them down.
package race

// Slowness is how much less tests that count do with the race detector.
const Slowness = 10
