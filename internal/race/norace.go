//go:build !race

// Package race tells tests whether the race detector is on.
package race

// Slowness is by how much tests with large counts reduce them, because the race detector is slow.
const Slowness = 1
