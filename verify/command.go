package verify

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"
)

// Command is the command line of `parley verify`.
type Command struct {
	URLs          []string      `arg:"" optional:"" name:"url" help:"Servers to verify, like http://localhost:8080; they have to share one database."`
	Chaos         bool          `env:"-" help:"Start a cluster instead (three nodes of this program, PostgreSQL, NATS), and break it while it runs."`
	SQLite        bool          `env:"-" name:"sqlite" help:"With --chaos: a single node on SQLite instead of the cluster."`
	NATSServer    string        `env:"-" name:"nats-server" placeholder:"PROGRAM" help:"With --chaos: nats-server. Default: next to this program, else in the PATH."`
	Keep          bool          `env:"-" help:"With --chaos: keep the folder with the nodes' logs."`
	History       string        `env:"-" placeholder:"FILE" help:"Write the history of the run to this file, and keep it. Default: a temporary file, which is kept after a violation."`
	Judge         string        `env:"-" placeholder:"FILE" help:"Judge the history file of an earlier run, and do nothing else."`
	For           time.Duration `env:"-" default:"60s" help:"How long to send messages and to break connections."`
	Seed          uint64        `env:"-" help:"Run the plan of this seed again. Default: a random seed."`
	Conversations int           `env:"-" default:"20" help:"How many conversations."`
	People        int           `env:"-" default:"40" help:"How many people are members of them."`
	Followers     int           `env:"-" default:"60" help:"How many streams are followed."`
	Rate          int           `env:"-" default:"60" help:"Messages a second, of all senders together."`
	Grace         time.Duration `env:"-" default:"5s" help:"How long a node may take to notice that a session has ended."`
	Patience      time.Duration `env:"-" default:"6s" help:"How long a client waits for a silent node before it connects to another."`
}

// Help returns the text of "parley verify --help" above the flags.
func (Command) Help() string {
	return "Runs many senders and followers against running servers, through the public API, and " +
		"checks that no message and " +
		"no other event is lost, doubled, reordered or shown to a client that may not see it. " +
		"The servers need open " +
		"registration, and rate limits off."
}

// Run verifies. Its error says what is broken.
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
