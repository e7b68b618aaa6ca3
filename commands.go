package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"parley/config"
	"parley/migrations"
	"parley/restored"
	"parley/seed"
	"parley/store"
	"parley/verify"
)

// run runs the command that args name, and returns the exit code of the process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cli commandLine
	exited := -1
	parser, err := kong.New(&cli,
		kong.Name("parley"),
		kong.Description("A self-hosted messenger backend with a GraphQL API."),
		kong.DefaultEnvars("PARLEY"), config.Defaults(), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "parley:", err)
		return 1
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(args[1:], "--help")
	}
	command, err := parser.Parse(args) // it also calls Settings.Validate
	if exited >= 0 {                   // after --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "parley: %v\nSee parley help.\n", err)
		return 2
	}
	log := newLog(cli.Settings, stderr)
	if unknown := config.Unknown(os.Environ(), isSetting(parser)); len(unknown) > 0 {
		log.Warn("environment variables that name no setting are ignored",
			"names", strings.Join(unknown, ","))
	}
	command.BindTo(ctx, (*context.Context)(nil))
	command.BindTo(stdout, (*io.Writer)(nil))
	if err := command.Run(&cli.Settings, log); err != nil {
		fmt.Fprintln(stderr, "parley:", err)
		return 1
	}
	return 0
}

// isSetting returns a function that reports whether an environment variable sets a flag of the
// server or of any command.
func isSetting(parser *kong.Kong) func(name string) bool {
	names := map[string]bool{}
	_ = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				names[name] = true
			}
		}
		return next(nil)
	})
	return func(name string) bool { return names[name] }
}

type commandLine struct {
	config.Settings
	Serve    serveCommand    `cmd:"" default:"1" help:"Run the server. This is the default command."`
	Migrate  migrateCommand  `cmd:"" help:"Apply, revert or list the migrations of the database."`
	Backup   backupCommand   `cmd:"" help:"Back up the database while servers use it, or check a backup."`
	Restore  restoreCommand  `cmd:"" help:"Put a backup in the place of a SQLite database whose server is stopped."`
	Restored restoredCommand `cmd:"" help:"After the database was restored from a backup: leave numbers out in every conversation, and list what the restore has undone."`
	Seed     seedCommand     `cmd:"" help:"Fill an empty database with a year of conversations, to try Parley out or to measure it."`
	Verify   verify.Command  `cmd:"" help:"Prove that no message is lost, doubled, reordered or leaked, against running servers or with --chaos."`
	Version  versionCommand  `cmd:"" help:"Print the version."`
	Help     struct{}        `cmd:"" help:"Show this list of commands and settings, with their defaults."`
}

// finishRestore runs after the command restore has put a backup in place.
func finishRestore(out io.Writer) error {
	_, err := fmt.Fprintln(out, "Next: parley restored --since TIME, with the time of the backup; "+
		"and then start the server.")
	return err
}

func newLog(s config.Settings, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // its enum has no other values
	options := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

type migrateCommand struct {
	Direction string `arg:"" default:"up" enum:"up,down,status,accept" help:"up applies what is missing. down reverts the newest group, and deletes its data. status lists all, and says whether this version can use the database. accept accepts migrations that were applied from another file than this version has."`
}

func (c migrateCommand) Run(
	ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer,
) (err error) {
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{MaxConns: s.MaxDBConns})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	migrator, err := migrations.New(db.DB, migrations.Options{Log: log})
	if err != nil {
		return err
	}
	switch c.Direction {
	case "down":
		reverted, err := migrator.Down(ctx)
		for _, name := range reverted {
			log.Info("reverted", "migration", name)
		}
		return err
	case "status":
		return printStatus(ctx, migrator, out)
	case "accept":
		accepted, err := migrator.Accept(ctx)
		for _, name := range accepted {
			log.Info("accepted", "migration", name)
		}
		return err
	}
	return migrateUp(ctx, migrator, log)
}

// printStatus prints a line for each migration, and then whether this version can use the database.
func printStatus(ctx context.Context, migrator *migrations.Migrator, out io.Writer) error {
	list, err := migrator.List(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		fmt.Fprint(out, m.State, " ", m.Name)
		if m.Requires != "" {
			fmt.Fprintf(out, " (requires a version that knows %s)", m.Requires)
		}
		fmt.Fprintln(out)
	}
	err = migrator.CheckStart(ctx)
	if reason, ok := errors.AsType[*migrations.Incompatible](err); ok {
		fmt.Fprintf(out, "This version cannot use the database: %v.\n", reason)
		return nil
	}
	if err == nil {
		fmt.Fprintln(out, "This version can use the database.")
	}
	return err
}

type seedCommand struct {
	Large         bool   `help:"1,000 people, 10,000 conversations and 1,000,000 messages, which takes some minutes; otherwise 20, 30 and 2,000."`
	People        int    `help:"Number of people, if not the above." placeholder:"N"`
	Conversations int    `help:"Number of conversations, if not the above." placeholder:"N"`
	Messages      int    `help:"Number of messages, if not the above." placeholder:"N"`
	Seed          uint64 `default:"1" help:"Seed of the random numbers: another one makes other data."`
}

func (c seedCommand) size() seed.Size {
	size := seed.Small
	if c.Large {
		size = seed.Large
	}
	return seed.Size{
		People:        cmp.Or(c.People, size.People),
		Conversations: cmp.Or(c.Conversations, size.Conversations),
		Messages:      cmp.Or(c.Messages, size.Messages),
	}
}

func (c seedCommand) Run(
	ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer,
) (err error) {
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{MaxConns: s.MaxDBConns})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := openTables(ctx, db, true, log); err != nil {
		return err
	}
	var reported time.Time
	size := c.size()
	progress := func(messages int) {
		if now := time.Now(); now.Sub(reported) >= 5*time.Second || messages == size.Messages {
			reported = now
			log.Info("seeding", "messages", messages, "of", size.Messages)
		}
	}
	filled, err := seed.Fill(ctx, db, seed.Options{Size: size, Seed: c.Seed, Progress: progress})
	if err != nil {
		return fmt.Errorf("seed %s: %w", s.Database(), err)
	}
	fmt.Fprintf(out, "%d people, %d conversations, %d messages, %d events.\n"+
		"The password of all accounts is %q. Sign in as %s (%s), or as %s (%s).\n",
		len(filled.People), filled.Conversations, filled.Messages, filled.Events, seed.Password,
		filled.People[0].Email, filled.People[0].Nickname,
		filled.People[1].Email, filled.People[1].Nickname)
	return nil
}

type restoredCommand struct{ restored.Command }

func (c restoredCommand) Run(
	ctx context.Context, s *config.Settings, log *slog.Logger, out io.Writer,
) (err error) {
	db, err := store.Open(ctx, s.DatabaseURL, store.Options{MaxConns: s.MaxDBConns, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := openTables(ctx, db, false, log); err != nil {
		return err
	}
	return c.Command.Run(ctx, db, log, os.Stdin, out)
}

// openTables applies the missing migrations, if it may, and checks that this version can use the
// tables.
func openTables(
	ctx context.Context, db *store.DB, migrate bool, log *slog.Logger,
) (*migrations.Migrator, error) {
	migrator, err := migrations.New(db.DB, migrations.Options{Log: log})
	if err != nil {
		return nil, err
	}
	if migrate {
		if err := migrateUp(ctx, migrator, log); err != nil {
			return nil, err
		}
	}
	return migrator, migrator.CheckStart(ctx)
}

func migrateUp(ctx context.Context, migrator *migrations.Migrator, log *slog.Logger) error {
	applied, err := migrator.Up(ctx)
	for _, name := range applied {
		log.Info("applied", "migration", name)
	}
	if err != nil {
		return fmt.Errorf("bring the tables up to date: %w", err)
	}
	return nil
}
