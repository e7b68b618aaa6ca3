package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"parley/migrations"
	"parley/store"
)

// Verify restores a backup into a place of its own, brings its tables up to date there, and checks
// it. A SQLite file is copied into a temporary folder. An archive of PostgreSQL is restored into a
// temporary database on the server of the URL server, whose user needs the right to create
// databases. Both are removed again.
//
// An error means that the backup could not be checked. If it is damaged, the report has what was
// found.
func Verify(ctx context.Context, file, server string, log *slog.Logger) (r *Report, err error) {
	format, err := FormatOf(file)
	if err != nil {
		return nil, err
	}
	if format == Archive {
		return verifyArchive(ctx, file, server, log)
	}
	dir, err := os.MkdirTemp("", "parley-verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	place := filepath.Join(dir, "parley.db")
	if err := copyFile(ctx, file, place); err != nil {
		return nil, fmt.Errorf("copy %s, to check it: %w", file, err)
	}
	return checkFile(ctx, place, file, log)
}

// checkFile brings the tables of a SQLite file up to date and checks it. name is the file that it
// is a copy of.
func checkFile(ctx context.Context, place, name string, log *slog.Logger) (*Report, error) {
	r, err := openAndCheck(ctx, "sqlite:"+place, log, func(db *store.DB) error {
		return requireTables(ctx, db, name)
	})
	if err != nil && isCorrupt(err) {
		r = &Report{}
		r.add(Finding{Kind: integrity, Table: "the file", Problem: err.Error()})
		return r, nil
	}
	return r, err
}

func openAndCheck(
	ctx context.Context, databaseURL string, log *slog.Logger, before func(*store.DB) error,
) (r *Report, err error) {
	db, err := store.Open(ctx, databaseURL, store.Options{Log: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := before(db); err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, db.DB); err != nil {
		return nil, fmt.Errorf("bring the tables of the backup up to date: %w", err)
	}
	return Check(ctx, db)
}
