package auth

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"

	"parley/model"
	"parley/store/storetest"
)

func TestPasswordsCountExactlyAsGiven(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("🐙", 255)
	each(t, func(t *testing.T, f *fixture) {
		for i, c := range []struct {
			name, given string
			others      []string
		}{
			{"plain", "Sesame0pen", []string{
				"", "sesame0pen", "SESAME0PEN", "Sesame0pe",
				"Sesame0pen2", " Sesame0pen", "Sesame0pen ",
			}},
			{
				"space at the end", "password ",
				[]string{"password", "password  ", "password\t", "password\u00a0"},
			},
			{"space at the start", " password", []string{"password", "  password"}},
			{"line break at the end", "password\r\n", []string{"password", "password\n"}},
			{"composed", "p\u00e4ssword", []string{"pa\u0308ssword"}},
			{"full width", "ｐassword", []string{"password"}},
			{"zero width", "pass\u200bword", []string{"password"}},
			{"NUL", "password\x00one", []string{"password", "password\x00two"}},
			{"the last of 256 characters", long + "a", []string{long + "b", long, long + "aa"}},
		} {
			in := Register{
				Email:    fmt.Sprintf("p%d@example.org", i),
				Nickname: fmt.Sprintf("p%d", i), Password: c.given,
			}
			if _, err := f.Register(t.Context(), in, Client{}); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Login(t.Context(), Login{Email: in.Email, Password: c.given},
				Client{}); err != nil {
				t.Errorf("%s: its own password: %v", c.name, err)
			}
			for _, other := range c.others {
				_, err := f.Login(t.Context(), Login{Email: in.Email, Password: other}, Client{})
				if problems(err) != "INVALID_CREDENTIALS password" {
					t.Errorf("%s: %q works too (%v)", c.name, other, err)
				}
			}
		}
	})
}

// passwordHash returns the stored hash of a user's password.
func (f *fixture) passwordHash(s *SignedIn) string {
	f.t.Helper()
	c := &model.Credentials{UserID: s.User.ID}
	if err := f.db.NewSelect().Model(c).WherePK().Scan(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return c.PasswordHash
}

func TestPasswordHashesContainTheirParameters(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		ann, bob := f.register("ann"), f.register("bob")
		annHash, bobHash := f.passwordHash(ann), f.passwordHash(bob)
		if annHash == bobHash {
			t.Error("the same password has the same hash: there is no salt")
		}
		if !strings.HasPrefix(annHash, "$argon2id$v=19$m=64,t=1,p=1$") ||
			strings.Contains(annHash, password) {
			t.Errorf("got %s", annHash)
		}
		// An operator may change the cost at any time: old hashes still work, new ones are of the
		// new cost.
		other := f.node(f.clock, func(o *Options) {
			o.Argon2 = &argon2id.Params{
				Memory: 128, Iterations: 2, Parallelism: 1, SaltLength: 16,
				KeyLength: 32,
			}
		})
		other.login("ann")
		if hash := other.passwordHash(other.register("cat")); !strings.HasPrefix(hash,
			"$argon2id$v=19$m=128,t=2,p=1$") {
			t.Errorf("got %s", hash)
		}
		f.login("cat")
	})
}

// The default is the least that OWASP's Password Storage Cheat Sheet recommends.
func TestPasswordsCostEnoughByDefault(t *testing.T) {
	t.Parallel()
	s := mustService(t, mustSQLite(t, storetest.NewClock().Now),
		func(o *Options) { o.Argon2 = nil })
	hash, err := s.hashPassword(t.Context(), password, Client{})
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("got %s (%v)", hash, err)
	}
}

// Only a few passwords are hashed at once, because each takes memory. A waiting caller may cancel.
func TestPasswordsTakeTurns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		f.register("ann")
		release := f.takeSlots()
		ctx, cancel := context.WithCancel(t.Context())
		answers := make(chan error, 1)
		go func() {
			_, err := f.Login(ctx, Login{Email: "ann@example.org", Password: password}, Client{})
			answers <- err
		}()
		select {
		case err := <-answers:
			t.Fatalf("did not wait for its turn: %v", err)
		default:
		}
		cancel()
		select {
		case err := <-answers:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want the error of the context", err)
			}
		case <-time.After(patience):
			t.Fatal("still waits for its turn after its context has ended")
		}
		release()
		// The slot is released after a match, a mismatch and a malformed hash.
		for range 2 * runtime.GOMAXPROCS(0) {
			f.login("ann")
			if _, err := f.passwordMatches(t.Context(), password, "not a hash",
				Client{}); err == nil {
				t.Error("a malformed hash matches")
			}
			if matches, err := f.passwordMatches(t.Context(), decoyPassword, "",
				Client{}); matches || err != nil {
				t.Errorf("matches no account: %t (%v)", matches, err)
			}
		}
	})
}

// What other users see is made from a model.User, so no path through its fields may lead to a
// secret.
func TestNoSecretIsReachableFromAUser(t *testing.T) {
	t.Parallel()
	seen := map[reflect.Type]bool{}
	var visit func(typ reflect.Type, path string)
	visit = func(typ reflect.Type, path string) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map, reflect.Chan:
			visit(typ.Elem(), path)
		case reflect.Interface:
			t.Errorf("%s may hold anything", path)
		case reflect.Struct:
			for field := range typ.Fields() {
				name := strings.ToLower(field.Name)
				if slices.ContainsFunc([]string{
					"password", "hash", "secret", "credential", "token",
					"session",
				}, func(part string) bool {
					return strings.Contains(name, part)
				}) {
					t.Errorf("%s.%s is reachable", path, field.Name)
				}
				visit(field.Type, path+"."+field.Name)
			}
		default: // a type without elements or fields
		}
	}
	visit(reflect.TypeFor[model.User](), "User")
	for _, secret := range []reflect.Type{
		reflect.TypeFor[model.Credentials](),
		reflect.TypeFor[model.SessionSecrets](),
	} {
		if seen[secret] {
			t.Errorf("%v is reachable", secret)
		}
	}
}

// The duration of a refusal should not reveal which addresses have accounts. A measurement proves
// nothing on a busy machine, so this test only logs the durations for a person to compare.
func TestTimeOfRefusals(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		costly := f.node(f.clock, func(o *Options) {
			o.Argon2 = &argon2id.Params{
				Memory: 2048, Iterations: 1, Parallelism: 1, SaltLength: 16,
				KeyLength: 32,
			}
		})
		costly.register("ann")
		const tries = 31
		var medians [2]time.Duration
		var first [2]time.Duration
		for i, email := range []string{"ann@example.org", "unknown@example.org"} {
			took := make([]time.Duration, tries)
			for j := range took {
				began := time.Now()
				_, err := costly.Login(t.Context(),
					Login{Email: email, Password: "a wrong password"}, Client{})
				took[j] = time.Since(began)
				if problems(err) != "INVALID_CREDENTIALS password" {
					t.Fatal(err)
				}
			}
			first[i] = took[0]
			slices.Sort(took)
			medians[i] = took[tries/2]
		}
		t.Logf("median of %d: wrong password %v, unknown address %v; the first of each: %v, %v",
			tries, medians[0], medians[1], first[0], first[1])
	})
}
