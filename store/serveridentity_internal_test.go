package store

import "testing"

func TestServerIdentities(t *testing.T) {
	t.Parallel()
	full := serverIdentity{"1.5", "5", "16400", "00000001", "77"}
	for name, c := range map[string]struct {
		before, now serverIdentity
		differs     bool
	}{
		"the first":           {serverIdentity{}, full, false},
		"the same":            {full, full, false},
		"nothing known":       {full, serverIdentity{}, false},
		"restarted":           {full, serverIdentity{"2.5", "5", "16400", "00000001", "77"}, true},
		"another one":         {full, serverIdentity{"1.5", "6", "16400", "00000001", "77"}, true},
		"a new table":         {full, serverIdentity{"1.5", "5", "16401", "00000001", "77"}, true},
		"promoted":            {full, serverIdentity{"1.5", "5", "16400", "00000002", "77"}, true},
		"another cluster":     {full, serverIdentity{"1.5", "5", "16400", "00000001", "78"}, true},
		"less is known":       {full, serverIdentity{"1.5", "5", "", "", ""}, false},
		"less, and restarted": {full, serverIdentity{"2.5", "5", "", "", ""}, true},
	} {
		if got := c.before.differs(c.now); got != c.differs {
			t.Errorf("%s: %v", name, got)
		}
	}
	// what was known once is compared later
	known := full.updated(serverIdentity{"1.5", "5", "", "", ""})
	if known != full {
		t.Errorf("known are %q", known)
	}
}
