// Package restored is the command that an operator runs after a database was restored from a
// backup. It raises the seqs of all conversations (package feed), and lists what the restore has
// undone, as the logs of the nodes tell it (log.go, undone.go).
package restored

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"parley/auth"
	"parley/feed"
	"parley/store"
)

// Command is the command line of `parley restored`.
type Command struct {
	Since time.Time `required:"" placeholder:"TIME" help:"When the backup was made, or the time that was recovered to, as in 2026-11-30T12:00:00Z."`
	Skip  int64     `default:"100000" help:"How many numbers each conversation leaves out: more than events that any of them lost."`
	Log   []string  `placeholder:"FILE" help:"Logs of the nodes since then, as text or JSON; - is the standard input. What they say and the database does not know is listed."`
	Redo  bool      `help:"End the sessions again that the list has."`
}

// Run raises the seqs and lists what the restore has undone. The tables must be up to date.
func (c Command) Run(
	ctx context.Context, db *store.DB, log *slog.Logger, stdin io.Reader, out io.Writer,
) error {
	if c.Since.After(db.Now()) {
		return fmt.Errorf("--since is in the future: %s", c.Since.Format(time.RFC3339))
	}
	if c.Redo && len(c.Log) == 0 {
		return errors.New("--redo needs --log: the sessions are known from there")
	}
	// First, so that a file that cannot be read changes nothing.
	list := &undoneList{db: db, since: c.Since, lines: map[string]line{}}
	for _, name := range c.Log {
		if err := readFile(name, stdin, list.add); err != nil {
			return err
		}
	}
	if err := c.raise(ctx, db, log, out); err != nil {
		return err
	}
	if len(c.Log) == 0 {
		fmt.Fprintln(out, "\nWithout --log it is not known what the restore has undone: sessions "+
			"that had ended, passwords\nand addresses that were changed, accounts that were "+
			"removed, members who left, and messages and\nconversations that were deleted since "+
			"the backup. Give the logs of all nodes since then.")
		return nil
	}
	found, err := list.find(ctx)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		fmt.Fprintf(out, "\nThe restore has undone nothing of what the logs have since %s.\n",
			c.Since.UTC().Format(time.RFC3339))
		return nil
	}
	write(out, found)
	if c.Redo {
		return redo(ctx, db, log, out, found)
	}
	return nil
}

// raise raises the seqs of all conversations.
func (c Command) raise(
	ctx context.Context, db *store.DB, log *slog.Logger, out io.Writer,
) error {
	changed := false
	run, err := feed.New(db, feed.Options{Log: log}).RaiseSeqs(ctx, c.Since, c.Skip,
		func(run feed.Restoration) {
			changed = true
			log.Info("raising the numbers of conversations", "done", run.Raised)
		})
	if err != nil {
		return fmt.Errorf("raise the numbers of conversations: %w", err)
	}
	if !changed {
		fmt.Fprintf(out, "A run at %s, which is after the backup, has raised the numbers already: "+
			"%d conversations\nleave out %d each. Nothing is raised twice. If another backup was "+
			"restored since then,\n--since has to be the time of that one.\n",
			run.BeganAt.Format(time.RFC3339), run.Raised, run.Skip)
		return nil
	}
	fmt.Fprintf(out, "Conversations that leave out %d numbers: %d.\n", run.Skip, run.Raised)
	return nil
}

func readFile(name string, stdin io.Reader, each func(line)) (err error) {
	if name == "-" {
		return readLog(stdin, each)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return readLog(file, each)
}

// redo ends the sessions of the list.
func redo(
	ctx context.Context, db *store.DB, log *slog.Logger, out io.Writer, found []undone,
) error {
	count := 0
	for _, u := range found {
		if u.kind != sessions {
			continue
		}
		ended, err := auth.EndAgain(ctx, db, log, u.session)
		if err != nil {
			return fmt.Errorf("end %s: %w", u.session, err)
		}
		if ended {
			count++
		}
	}
	fmt.Fprintf(out, "\nSessions that are ended again: %d.\n", count)
	return nil
}
