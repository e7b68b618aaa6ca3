package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"parley/errs"
)

func TestUnavailable(t *testing.T) {
	t.Parallel()
	unavailable := map[string]error{
		"the end of a connection": io.ErrUnexpectedEOF,
		"a bad connection":        driver.ErrBadConn,
	}
	others := map[string]error{
		"a bug":                 errors.New("mine"),
		"a cancelled request":   context.Canceled,
		"the end of a request":  context.DeadlineExceeded,
		"a request that is bad": errs.New(errs.BadUserInput, "no"),
	}
	for _, code := range []string{
		"08006", "08P01", "25006", "25P03", "25P04", "40001", "40P01", "53100", "53300", "55P03",
		"57P01", "57P02", "57P03", "57P05", "58000", "58030",
	} {
		unavailable[code] = &pgconn.PgError{Code: code}
	}
	for _, code := range []string{
		"", "22012", "23505", "23503", "25P02", "42501", "42P01", "57014",
	} {
		others[code] = &pgconn.PgError{Code: code}
	}
	for name, err := range unavailable {
		got, ok := errors.AsType[*errs.Error](Error(fmt.Errorf("wrapped: %w", err)))
		if !ok || got.Code != errs.Unavailable || got.RetryAfter < time.Second ||
			got.RetryAfter >= 2*time.Second || !errors.Is(got, err) {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, err := range others {
		if got := Error(err); got != err { //nolint:errorlint // it is returned as it is
			t.Errorf("%s: %v", name, got)
		}
	}
}
