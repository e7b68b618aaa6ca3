package backup

import (
	"context"

	"github.com/uptrace/bun"
)

// CheckIn is Check inside a transaction, which may have changed what is checked.
func CheckIn(ctx context.Context, tx bun.Tx, postgres bool) (*Report, error) {
	r := &Report{}
	c := check{tx: tx, postgres: postgres, report: r}
	return r, c.run(ctx)
}

// Environment returns what pg_dump gets for a URL, and the URL of another database on its server.
func Environment(url, database string) (env []string, other string, err error) {
	u, err := parsePGURL(url)
	if err != nil {
		return nil, "", err
	}
	return u.environment(), u.withDatabase(database), nil
}

// References returns the foreign keys that Check looks at, as "table.column parent", sorted.
func References() (list []string) {
	for _, r := range foreignKeys {
		list = append(list, r.table+"."+r.column+" "+r.parent)
	}
	return list
}
