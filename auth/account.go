package auth

import (
	"context"
	"net/mail"
	"strings"

	"parley/errs"
	"parley/model"
	"parley/store"
	"parley/text"
)

const (
	minNickname    = 2
	maxNickname    = 32
	maxDisplayName = 64
	maxEmail       = 254 // RFC 5321, section 4.5.3.1.3, without the angle brackets
)

// Register is what a new account is made from.
type Register struct {
	Email       string
	Nickname    string
	Password    string
	DisplayName *string
}

// Register makes an account and signs it in from the client.
func (s *Service) Register(ctx context.Context, in Register, from Client) (*SignedIn, error) {
	u, err := in.user()
	if err != nil {
		return nil, err
	}
	hash, err := s.hashPassword(ctx, in.Password) // before the transaction, which should be short
	if err != nil {
		return nil, err
	}
	var signedIn *SignedIn
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := requireFree(ctx, tx, u); err != nil {
			return err
		}
		u.CreatedAt = tx.Now
		if err := insertUser(ctx, tx, u); err != nil {
			return err
		}
		c := &model.Credentials{UserID: u.ID, PasswordHash: hash, UpdatedAt: tx.Now}
		if _, err := tx.NewInsert().Model(c).Exec(ctx); err != nil {
			return err
		}
		signedIn, err = s.startSession(ctx, tx, u, from)
		return err
	})
	return signedIn, err
}

// user checks the input and brings it into the form that is stored.
func (in Register) user() (*model.User, error) {
	var problems errs.List
	u := &model.User{
		ID: model.NewUserID(), Email: checkEmail(&problems, "email", in.Email),
		Nickname: checkNickname(&problems, "nickname", in.Nickname),
	}
	checkPassword(&problems, "password", in.Password)
	if in.DisplayName != nil {
		u.DisplayName = checkDisplayName(&problems, "displayName", *in.DisplayName)
	}
	u.EmailKey, u.NicknameKey = text.Fold(u.Email), text.Fold(u.Nickname)
	u.SearchKey = searchKey(u)
	return u, problems.Err()
}

// searchKey is what the search for people looks in. The line break keeps a search from matching across the two names.
func searchKey(u *model.User) string {
	if u.DisplayName == nil {
		return u.NicknameKey
	}
	return u.NicknameKey + "\n" + text.Fold(*u.DisplayName)
}

func checkEmail(problems *errs.List, path, email string) string {
	email = text.Clean(email)
	parsed, err := mail.ParseAddress(email) // RFC 5322
	switch {
	case email == "":
		problems.Add(errs.Required, path, "An e-mail address is needed.")
	case len(email) > maxEmail:
		problems.Add(errs.TooLong, path, "An e-mail address has at most %d bytes.", maxEmail)
	case err != nil || parsed.Address != email || text.Problem(email, false) != "" || text.Invisible(email):
		problems.Add(errs.Invalid, path, "That is not an e-mail address, like ann@example.org.")
	}
	return email
}

func checkNickname(problems *errs.List, path, nickname string) string {
	nickname = text.Clean(nickname)
	switch n := text.Len(nickname); {
	case nickname == "":
		problems.Add(errs.Required, path, "A nickname is needed.")
	case text.Problem(nickname, false) != "":
		problems.Add(errs.Invalid, path, "A nickname %s.", negated(text.Problem(nickname, false)))
	case text.Invisible(nickname):
		problems.Add(errs.Invalid, path, "A nickname has no invisible characters.")
	case n < minNickname:
		problems.Add(errs.TooShort, path, "A nickname has at least %d characters.", minNickname)
	case n > maxNickname:
		problems.Add(errs.TooLong, path, "A nickname has at most %d characters.", maxNickname)
	}
	return nickname
}

// checkDisplayName returns nil for a blank one: there is none then.
func checkDisplayName(problems *errs.List, path, name string) *string {
	name = text.Clean(name)
	switch {
	case name == "":
		return nil
	case text.Problem(name, false) != "":
		problems.Add(errs.Invalid, path, "A display name %s.", negated(text.Problem(name, false)))
	case text.Len(name) > maxDisplayName:
		problems.Add(errs.TooLong, path, "A display name has at most %d characters.", maxDisplayName)
	}
	return &name
}

// negated turns "has a control character" into "has no control character".
func negated(problem string) string {
	if thing, ok := strings.CutPrefix(problem, "has a "); ok {
		return "has no " + thing
	}
	return strings.Replace(problem, "is not ", "has to be ", 1)
}

// requireFree says which of the names that have to be unique are taken, all of them at once.
func requireFree(ctx context.Context, tx *store.Tx, u *model.User) error {
	var taken []model.User
	err := tx.NewSelect().Model(&taken).Column("email_key", "nickname_key").
		Where("email_key = ? OR nickname_key = ?", u.EmailKey, u.NicknameKey).Scan(ctx)
	if err != nil {
		return err
	}
	var problems errs.List
	for _, other := range taken {
		if other.EmailKey == u.EmailKey {
			problems.Add(errs.Taken, "email", emailTaken)
		}
		if other.NicknameKey == u.NicknameKey {
			problems.Add(errs.Taken, "nickname", nicknameTaken)
		}
	}
	return problems.Err()
}

const (
	emailTaken    = "There is an account with this e-mail address."
	nicknameTaken = "Somebody else has this nickname."
)

// insertUser leaves the last word to the database: another may have taken a name since requireFree looked.
func insertUser(ctx context.Context, tx *store.Tx, u *model.User) error {
	_, err := tx.NewInsert().Model(u).Exec(ctx)
	switch {
	case store.UniqueEmail.BrokenBy(err):
		return errs.Input(errs.Taken, "email", emailTaken)
	case store.UniqueNickname.BrokenBy(err):
		return errs.Input(errs.Taken, "nickname", nicknameTaken)
	}
	return err
}
