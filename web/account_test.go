package web_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"parley/web"
)

func TestAccountPages(t *testing.T) {
	for page, contents := range map[string][]string{
		"/account/verify-email": {
			`data-testid="verify-button"`,
			`data-action="verifyEmail"`,
		},
		"/account/reset-password": {
			`<label for="new-password">`,
			`data-testid="reset-password-input"`,
			`type="password"`,
			`autocomplete="new-password"`,
			`minlength="8"`,
			`data-testid="reset-button"`,
			`data-action="resetPassword"`,
		},
	} {
		t.Run(page, func(t *testing.T) {
			h := web.Account(`/graphql?a="b`)
			checkPage(t, h, page, "no-store", append(contents,
				`data-testid="account-status" role="status"`,
				`<noscript>`,
			)...)

			// Without its script, the form would send the password to the page's own address. So it
			// is hidden until the script runs, and could not put the password into the address bar.
			form := regexp.MustCompile(`<form [^>]*>`).FindString(body(t, get(t, h, page)))
			if !strings.Contains(form, " hidden") || !strings.Contains(form, `method="post"`) {
				t.Errorf("the form is %s", form)
			}
		})
	}
}

func accountScript(t *testing.T) string {
	t.Helper()
	script, err := os.ReadFile("account/account.js")
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// A token is a key to the account: the script removes it from the address, and stores it nowhere.
func TestAccountScriptKeepsNothing(t *testing.T) {
	script := accountScript(t)
	if !strings.Contains(script, "history.replaceState(") {
		t.Error("the token stays in the address bar")
	}
	if m := regexp.MustCompile(`(local|session)Storage|\.cookie|indexedDB|console\.|innerHTML`).
		FindString(script); m != "" {
		t.Errorf("account.js uses %s", m)
	}
}

func TestAccountMutations(t *testing.T) {
	schema := loadSchema(t)
	script := accountScript(t)
	for field, input := range map[string]map[string]any{
		"verifyEmail":   {"token": "t"},
		"resetPassword": {"token": "t", "newPassword": "p"},
	} {
		m := regexp.MustCompile(field + `: \{\s+query: '([^']+)'`).FindStringSubmatch(script)
		if m == nil {
			t.Errorf("account.js has no query for %s", field)
			continue
		}
		doc, errs := gqlparser.LoadQueryWithRules(schema, m[1], rules.NewDefaultRules())
		if errs != nil {
			t.Errorf("%s: %v", field, errs)
			continue
		}
		if _, err := validator.VariableValues(schema, doc.Operations[0],
			map[string]any{"input": input}); err != nil {
			t.Errorf("%s: variables: %v", field, err)
		}
	}
}
