package main

import "context"

// target is one of the servers that are measured in turns.
type target interface {
	title() string
	// begin starts the server. Topics are numbered from 0. Each takes messages, and has so many
	// followers.
	begin(ctx context.Context, topics, followers int) error
	// join opens the connection of a follower that has everything up to a seq.
	join(topic, follower int, after int64) (*conn, error)
	send(ctx context.Context, topic int) error
	last(topic int) int64 // the newest seq of a topic
	pid() int
	debug(ctx context.Context, path, file string) error
	stop()
}
