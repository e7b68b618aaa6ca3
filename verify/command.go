package verify

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"
)

// Command is `parley verify`, for the command line.
type Command struct {
	URLs          []string      `arg:"" optional:"" name:"url" help:"Servers to verify, like http://localhost:8080; they have to share one database."`
	Chaos         bool          `env:"-" help:"Start a cluster instead (three nodes of this program, PostgreSQL, NATS), and break it while it runs."`
	NATSServer    string        `env:"-" name:"nats-server" placeholder:"PROGRAM" help:"With --chaos: nats-server. Default: beside this program, else in the PATH."`
	Keep          bool          `env:"-" help:"With --chaos: keep the folder with the nodes' logs."`
	For           time.Duration `env:"-" default:"60s" help:"How long to send and to break."`
	Seed          uint64        `env:"-" help:"Play this plan again. Default: another one each time."`
	Conversations int           `env:"-" default:"20" help:"How many conversations."`
	People        int           `env:"-" default:"40" help:"How many people are in them."`
	Followers     int           `env:"-" default:"60" help:"How many streams are followed."`
	Rate          int           `env:"-" default:"60" help:"Messages a second, in all."`
	Grace         time.Duration `env:"-" default:"5s" help:"How long a node may take to notice that a session has ended."`
	Patience      time.Duration `env:"-" default:"6s" help:"How long a client waits for a node that is silent before it goes to another."`
}

// Help is what "parley verify --help" says above the flags.
func (Command) Help() string {
	return "Plays many senders and followers against running servers, from outside, and checks that no message and no other " +
		"event is lost, doubled, reordered or shown to somebody who may not see it. Registration has to be open there, and rate " +
		"limits off."
}

// Run verifies; the error says what was broken.
func (c Command) Run(ctx context.Context, out io.Writer) error {
	if c.Seed == 0 {
		c.Seed = rand.Uint64N(1_000_000) + 1
	}
	err := Run(ctx, Options(c), out)
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted"), err)
	}
	return err
}
