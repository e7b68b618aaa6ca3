package verify

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"parley/verify/judge"
)

// undoing is a fault that undoes what was committed last.
type undoing struct {
	since time.Time                   // everything that was acknowledged before is kept
	back  func(context.Context) error // takes the database back, while no node can reach it
}

// prepareToUndo makes the copy that will be restored, or leaves the standby behind that will be
// promoted.
func (c *cluster) prepareToUndo(
	ctx context.Context, v *verification, k kind,
) (u *undoing, err error) {
	v.steady.Lock()
	defer v.steady.Unlock()
	u = &undoing{since: time.Now()}
	copies := filepath.Join(c.dir, "copy")
	switch {
	case c.file != nil:
		u.back, err = c.file.save(ctx, copies)
	case k == promoteLagging:
		u.back, err = c.databases.leaveBehind(ctx)
	default:
		u.back, err = c.databases.save(ctx, copies)
	}
	return u, err
}

// undo takes the database back, and records what is left of each conversation before any node can
// reach it. If leaveOut is true, parley restored leaves out seqs then, as an operator may.
func (c *cluster) undo(ctx context.Context, v *verification, u *undoing, leaveOut bool) error {
	v.steady.Lock()
	defer v.steady.Unlock()
	if c.file != nil {
		c.running[0].end(syscall.SIGKILL)
	} else {
		c.databases.cut()
	}
	r := restore{since: u.since, from: time.Now()}
	if err := u.back(ctx); err != nil {
		return err
	}
	driver, url := c.database()
	seqs, err := lastSeqs(ctx, driver, url)
	if err != nil {
		return err
	}
	if leaveOut {
		v.history.leavingOut(time.Now())
		if err := c.leaveOut(ctx, u.since); err != nil {
			return err
		}
	}
	r.to = time.Now()
	keeps := map[string]int64{}
	for i, id := range v.conversations {
		keeps[id] = seqs[title(i)]
		v.records.Write(judge.Record{
			Type: judge.Restored, Conversation: id, Seq: keeps[id],
			From: v.records.At(r.from), Since: v.records.At(r.since),
		})
	}
	v.history.restored(r, keeps)
	if c.file != nil {
		return c.startNode(ctx, 0)
	}
	c.databases.connect()
	return c.databases.follow(ctx)
}

// leaveOut runs parley restored for a copy that was made at a time.
func (c *cluster) leaveOut(ctx context.Context, since time.Time) error {
	cmd := exec.CommandContext(ctx, c.binary, "restored", "--skip=1000",
		"--since="+since.UTC().Format(time.RFC3339Nano))
	cmd.Dir = c.dir
	cmd.Env = slices.Clip(c.env)
	if c.databases != nil {
		cmd.Env = append(cmd.Env,
			"PARLEY_DATABASE_URL="+c.databases.current().URL("postgres"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("parley restored: %w: %s", err, out)
	}
	return nil
}

// database returns how verify itself reaches the database, whether nodes can or not.
func (c *cluster) database() (driver, url string) {
	if c.file != nil {
		return "sqlite", c.file.path + "?_pragma=busy_timeout(10000)"
	}
	return "pgx", c.databases.current().URL("postgres")
}
