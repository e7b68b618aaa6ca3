package migrations

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Incompatible is the error for a database that this version cannot use as it is. Its text says
// what to do.
type Incompatible struct{ reason string }

func (e *Incompatible) Error() string { return e.reason }

func incompatible(format string, args ...any) error {
	return &Incompatible{fmt.Sprintf(format, args...)}
}

// state is what the database says about its migrations.
type state struct {
	applied  []applied // oldest first
	recorded bool      // migration_records exists
}

// applied is a migration that is applied. What was not recorded is empty.
type applied struct {
	Name     string
	GroupID  int64
	Comment  string
	Checksum string
	Requires string
	Goal     string
}

func (a applied) String() string {
	if a.Comment == "" {
		return a.Name
	}
	return a.Name + "_" + a.Comment
}

func (s state) has(number string) bool {
	return slices.ContainsFunc(s.applied, func(a applied) bool { return a.Name == number })
}

func (s state) lastGroup() (last int64) {
	for _, a := range s.applied {
		last = max(last, a.GroupID)
	}
	return last
}

// read reads the state with one statement, or with more if a table is missing. It writes nothing.
func (m *Migrator) read(ctx context.Context) (s state, err error) {
	if s.applied, err = m.readApplied(ctx, true); err == nil {
		s.recorded = true
		return s, nil
	}
	hasApplied, hasRecords, err := m.tables(ctx)
	if err == nil && hasApplied {
		s.recorded = hasRecords
		s.applied, err = m.readApplied(ctx, hasRecords)
	}
	if err != nil {
		return s, fmt.Errorf("read which migrations are applied: %w", err)
	}
	return s, nil
}

func (m *Migrator) readApplied(ctx context.Context, recorded bool) (list []applied, err error) {
	query := m.db.NewSelect().TableExpr("bun_migrations AS m").ColumnExpr("m.name, m.group_id")
	if recorded {
		query = query.Join("LEFT JOIN migration_records AS r ON r.name = m.name").
			ColumnExpr("coalesce(r.comment, '') AS comment").
			ColumnExpr("coalesce(r.checksum, '') AS checksum").
			ColumnExpr("coalesce(r.requires, '') AS requires, coalesce(r.goal, '') AS goal")
	}
	err = query.Scan(ctx, &list)
	slices.SortFunc(list, func(a, b applied) int { return cmp.Compare(a.Name, b.Name) })
	return list, err
}

// tables reports which of the two tables exist.
func (m *Migrator) tables(ctx context.Context) (hasApplied, hasRecords bool, err error) {
	exists := "EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)"
	if dialectOf(m.db).Postgres {
		exists = "to_regclass(?) IS NOT NULL"
	}
	err = m.db.NewSelect().ColumnExpr(exists, "bun_migrations").
		ColumnExpr(exists, "migration_records").Scan(ctx, &hasApplied, &hasRecords)
	return hasApplied, hasRecords, err
}

// missing returns the migrations of this version that are not applied, oldest first.
func (m *Migrator) missing(s state) (list []known) {
	for _, k := range m.known {
		if !s.has(k.name) {
			list = append(list, k)
		}
	}
	return list
}

// unknown returns the applied migrations that this version does not have, oldest first.
func (m *Migrator) unknown(s state) (list []applied) {
	for _, a := range s.applied {
		if !m.knows(a.Name) {
			list = append(list, a)
		}
	}
	return list
}

func (m *Migrator) knows(number string) bool {
	return slices.ContainsFunc(m.known, func(k known) bool { return k.name == number })
}

// changed returns the migrations that were applied with another checksum than this version's.
func (m *Migrator) changed(s state) (list []known) {
	for _, k := range m.known {
		if slices.ContainsFunc(s.applied, func(a applied) bool {
			return a.Name == k.name && a.Checksum != "" && k.checksum != "" &&
				a.Checksum != k.checksum
		}) {
			list = append(list, k)
		}
	}
	return list
}

// tooNew returns an error if an applied migration requires one that this version does not know.
func (m *Migrator) tooNew(s state) error {
	for _, a := range s.applied {
		if a.Requires != "" && !m.knows(a.Requires) {
			return incompatible("the database is too new for this version: after migration %s, "+
				"only versions that know migration %s can use it; run such a version, or go back "+
				"with its parley migrate down, which deletes the data of its newest migrations",
				a, a.Requires)
		}
	}
	return nil
}

// usable returns an error if this version must not migrate the database.
func (m *Migrator) usable(s state) error {
	if err := m.tooNew(s); err != nil {
		return err
	}
	if changed := m.changed(s); len(changed) > 0 {
		return incompatible("the tables may differ from what this version expects: %s was applied "+
			"from another file than this version has; run the version that applied it, or, if "+
			"the tables are the same, parley migrate accept", names(changed))
	}
	return nil
}

// complete returns an error if a migration of this version is missing.
func (m *Migrator) complete(s state) error {
	missing := m.missing(s)
	if len(missing) == 0 {
		return nil
	}
	if len(missing) == len(m.known) {
		return incompatible("the database has no tables yet: run parley migrate, or start " +
			"without PARLEY_MIGRATE=false")
	}
	for _, a := range s.applied {
		if a.Goal != "" && !s.has(a.Goal) {
			return incompatible("the migrations of the database are half applied: the run that "+
				"should have ended with %s is at work or was stopped, and %s is missing; wait "+
				"for it, or run parley migrate again", a.Goal, names(missing))
		}
	}
	return incompatible("the database is too old for this version: %s is missing; run parley "+
		"migrate, or start without PARLEY_MIGRATE=false", names(missing))
}

// Check returns an error if this version cannot use the database: an *Incompatible if a migration
// of this version is missing, or if an applied one requires a migration that it does not know. It
// accepts other unknown migrations, because these only add, and logs them once. It reads with one
// statement, and writes nothing.
func (m *Migrator) Check(ctx context.Context) error {
	s, err := m.read(ctx)
	if err != nil {
		return err
	}
	if err := m.tooNew(s); err != nil {
		return err
	}
	if err := m.complete(s); err != nil {
		return err
	}
	if unknown := names(m.unknown(s)); unknown != "" {
		if before := m.logged.Swap(&unknown); before == nil || *before != unknown {
			m.opts.Log.InfoContext(ctx,
				"the database has migrations of another version, and can be used with them",
				"migrations", unknown)
		}
	}
	return nil
}

// CheckStart is Check for the start of a node. It also returns an *Incompatible if a migration was
// applied from another file than this version has. A running node does not look at that: it began
// with these tables, and a warning is no reason to take all nodes out at once.
func (m *Migrator) CheckStart(ctx context.Context) error {
	s, err := m.read(ctx)
	if err != nil {
		return err
	}
	if err := m.usable(s); err != nil {
		return err
	}
	return m.Check(ctx)
}

// Status is a migration as `parley migrate status` lists it.
type Status struct {
	Name  string
	State State
	// Requires is the migration that a version has to know to use the database after this one; ""
	// if any version can.
	Requires string
	Recorded bool // its checksum is recorded, if it is a file
}

// State is how a migration stands in a database.
type State string

// The states. Of a migration that is Changed, another file was applied than this version has. An
// Unknown one is applied, and not of this version.
const (
	Applied State = "applied"
	Missing State = "missing"
	Changed State = "changed"
	Unknown State = "unknown"
)

// List returns all migrations, of this version and of the database, oldest first.
func (m *Migrator) List(ctx context.Context) (list []Status, err error) {
	s, err := m.read(ctx)
	if err != nil {
		return nil, err
	}
	changed := m.changed(s)
	for _, k := range m.known {
		status := Status{Name: k.String(), State: Applied, Requires: k.requires}
		switch i := slices.IndexFunc(s.applied,
			func(a applied) bool { return a.Name == k.name }); {
		case i < 0:
			status.State = Missing
		case slices.Contains(changed, k):
			status.State = Changed
			fallthrough
		default:
			status.Recorded = s.applied[i].Goal != ""
		}
		list = append(list, status)
	}
	for _, a := range m.unknown(s) {
		list = append(list, Status{
			Name: a.String(), State: Unknown, Requires: a.Requires, Recorded: a.Goal != "",
		})
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
