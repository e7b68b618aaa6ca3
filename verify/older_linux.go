package verify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
)

// newer is the number of a migration that no version knows.
const newer = "99990101000001"

// refuseOlder starts a node again on a database that only newer versions can use. The node has to
// refuse that, and to start once the database is as before. The other nodes go on meanwhile.
func (c *cluster) refuseOlder(ctx context.Context, node int) error {
	c.running[node].end(syscall.SIGTERM)
	if err := c.requireNewer(ctx, true); err != nil {
		return err
	}
	// What it prints is no crash, so it has a log of its own.
	err := c.startNodeWithLog(ctx, node, filepath.Join(c.nodeDir(node), "refused.log"))
	switch {
	case err == nil:
		return errors.New("a node has started on a database that only newer versions can use")
	case strings.Contains(err.Error(), "too new for this version"):
		err = nil
	default:
		err = fmt.Errorf("a node does not say that the database is too new for it: %w", err)
	}
	if undone := c.requireNewer(ctx, false); err != nil || undone != nil {
		return errors.Join(err, undone)
	}
	return c.startNode(ctx, node)
}

// requireNewer makes the database require a newer version, as a migration of one would, or ends it.
func (c *cluster) requireNewer(ctx context.Context, required bool) (err error) {
	driver, url := c.database()
	db, err := sql.Open(driver, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	statements := []string{
		"DELETE FROM migration_records WHERE name = '" + newer + "'",
		"DELETE FROM bun_migrations WHERE name = '" + newer + "'",
	}
	if required {
		statements = []string{
			"INSERT INTO bun_migrations (name, group_id) VALUES ('" + newer + "', 9999)",
			"INSERT INTO migration_records (name, comment, requires, goal) VALUES ('" + newer +
				"', 'verify', '" + newer + "', '" + newer + "')",
		}
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
