package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"parley/store"
)

// maxFindings is how many findings of each kind a Report has at most.
const maxFindings = 20

// Report is what Check found.
type Report struct {
	Figures
	Findings []Finding
	// More has the kinds of findings that the database has more of than maxFindings.
	More []string
}

// Finding is one place where the data breaks an invariant.
type Finding struct {
	Kind    string // the invariant, in a few words
	Table   string
	Key     string // of the row, as it is in the database; "" for a table as a whole
	Problem string
}

func (f Finding) String() string {
	return strings.TrimSpace(f.Table+" "+f.Key) + ": " + f.Problem
}

// Sound reports whether nothing was found.
func (r *Report) Sound() bool { return len(r.Findings) == 0 }

// Print writes the figures, and a line for each finding.
func (r *Report) Print(w io.Writer) {
	if r.Figures != (Figures{}) {
		fmt.Fprintf(w, "%s.\n", upperFirst(r.String()))
	}
	kind := ""
	for i, f := range r.Findings {
		if f.Kind != kind {
			kind = f.Kind
			fmt.Fprintf(w, "%s\n", upperFirst(kind))
		}
		fmt.Fprintf(w, "  %s\n", f)
		last := i == len(r.Findings)-1 || r.Findings[i+1].Kind != kind
		if last && slices.Contains(r.More, kind) {
			fmt.Fprintf(w, "  and more\n")
		}
	}
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// Err returns nil if the report is sound, else an error that says how much was found.
func (r *Report) Err(of string) error {
	if r.Sound() {
		return nil
	}
	kinds := map[string]bool{}
	for _, f := range r.Findings {
		kinds[f.Kind] = true
	}
	more := ""
	if len(r.More) > 0 {
		more = " or more"
	}
	return fmt.Errorf("%s is not sound: %d problems%s, of %d kinds", of, len(r.Findings), more,
		len(kinds))
}

// add adds a finding, and reports whether the report takes more of this kind.
func (r *Report) add(f Finding) bool {
	n := 0
	for _, other := range r.Findings {
		if other.Kind == f.Kind {
			n++
		}
	}
	if n == maxFindings {
		r.More = append(r.More, f.Kind)
		return false
	}
	r.Findings = append(r.Findings, f)
	return true
}

// Check checks whether the data of a database is whole: what the database itself can check, and
// every invariant that the code relies on. The tables have to be up to date. Check reads one
// snapshot, which no writer waits for, and needs little memory, whatever the size of the database.
// An error means that the check could not be finished.
func Check(ctx context.Context, db *store.DB) (*Report, error) {
	r := &Report{}
	err := db.InSnapshot(ctx, func(ctx context.Context, tx bun.Tx) error {
		c := check{tx: tx, postgres: db.Postgres(), report: r}
		return c.run(ctx)
	})
	if err != nil && ctx.Err() == nil && !db.Postgres() && (isCorrupt(err) || !r.Sound()) {
		// A file that is damaged enough cannot be read to the end.
		r.add(Finding{Kind: integrity, Table: "the file", Problem: err.Error()})
		return r, nil
	}
	return r, err
}

// check is a run of Check in its transaction.
type check struct {
	tx       bun.Tx
	postgres bool
	report   *Report
}

const integrity = "SQLite finds the file damaged"

// checkCache is how much of a SQLite file the connection keeps in memory, in KiB: the indexes of a
// million messages.
const checkCache = 128 << 10

func (c *check) run(ctx context.Context) (err error) {
	if !c.postgres {
		if _, err := c.tx.Tx.ExecContext(ctx,
			fmt.Sprintf("PRAGMA cache_size = -%d", checkCache)); err != nil {
			return err
		}
		if err := c.checkSQLite(ctx); err != nil {
			return err
		}
	}
	if c.report.Figures, err = readFigures(ctx, c.tx); err != nil {
		return err
	}
	for _, i := range c.invariants() {
		if err := c.query(ctx, i); err != nil {
			return fmt.Errorf("check that %s: %w", i.kind, err)
		}
	}
	for _, step := range []func(context.Context) error{
		c.checkTokens, c.checkMembers, c.checkNames,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkSQLite runs SQLite's own checks. They cover indexes, constraints, and whether the full-text
// index agrees with the text that it is made of.
func (c *check) checkSQLite(ctx context.Context) (err error) {
	rows, err := c.tx.Tx.QueryContext(ctx, fmt.Sprintf("PRAGMA integrity_check(%d)", maxFindings+1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var problem string
		if err := rows.Scan(&problem); err != nil {
			return err
		}
		if problem != "ok" {
			c.report.add(Finding{Kind: integrity, Table: "the file", Problem: problem})
		}
	}
	return rows.Err()
}

// query runs the query of an invariant.
func (c *check) query(ctx context.Context, i invariant) (err error) {
	// Not by Bun, which would look for places for arguments in it.
	rows, err := c.tx.Tx.QueryContext(ctx,
		fmt.Sprintf("SELECT key, problem FROM (%s) AS found LIMIT %d", i.query, maxFindings+1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		f := Finding{Kind: i.kind, Table: i.table}
		if err := rows.Scan(&f.Key, &f.Problem); err != nil {
			return err
		}
		if !c.report.add(f) {
			break
		}
	}
	return rows.Err()
}
