package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	netmail "net/mail"
	"strings"

	"parley/errs"
	"parley/mail"
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

// Register is the input of Service.Register.
type Register struct {
	Email       string
	Nickname    string
	Password    string
	DisplayName *string
	// InvitationCode is required if the operator lets only invited people register.
	InvitationCode *string
}

// Register makes an account and signs it in. A mail with a link to verify the address is sent.
//
// If addresses are concealed, it signs no one in and returns nil, whether the address had an
// account or not. An address that had one gets a notice instead of the link.
func (s *Service) Register(ctx context.Context, in Register, from Client) (*SignedIn, error) {
	if err := s.allow(ctx, "register from "+from.Network(), registerByAddress); err != nil {
		return nil, err
	}
	if err := s.requireInvitation(in.InvitationCode); err != nil {
		return nil, err
	}
	u, err := in.user()
	if err != nil {
		return nil, err
	}
	suppressed, err := s.countAttempt(ctx, u.Email)
	if err != nil {
		return nil, err
	}
	// Hashed before the transaction, which should be short.
	hash, err := s.hashPassword(ctx, in.Password, from)
	if err != nil {
		return nil, err
	}
	var signedIn *SignedIn
	err = s.db.InTx(ctx, func(ctx context.Context, tx *store.Tx) error {
		signedIn = nil
		owner, err := s.requireFree(ctx, tx, u)
		if err != nil {
			return err
		}
		// If the address has an account, and addresses are concealed, the same statements run and
		// store nothing.
		free := owner == nil
		u.CreatedAt = tx.Now
		if err := insertUser(ctx, tx, free, u); err != nil {
			return err
		}
		c := &model.Credentials{UserID: u.ID, PasswordHash: hash, UpdatedAt: tx.Now}
		if err := tx.InsertWhen(ctx, free, c, ""); err != nil {
			return err
		}
		if err := s.auditWhen(ctx, tx, free, registered, &u.ID, nil, from); err != nil {
			return err
		}
		token, err := s.issue(ctx, tx, free, verifyEmail, u.ID, nil, verifyTTL)
		if err != nil {
			return err
		}
		m := s.linkMail(mail.VerifyEmail, u.Email, u, verifyPage, token)
		if !free {
			m = attemptMail(owner, suppressed)
		}
		if err := s.opts.Mail.Enqueue(ctx, tx, m); err != nil {
			return err
		}
		if s.opts.ConcealEmails {
			return nil
		}
		signedIn, err = s.startSession(ctx, tx, u, from)
		return err
	})
	// Another registration took the address after requireFree had checked it.
	if s.opts.ConcealEmails && errors.Is(err, errEmailTaken) {
		return nil, nil //nolint:nilnil // the answer for every address, see above
	}
	return signedIn, err
}

// countAttempt counts an attempt to use an address that may have an account. It reports whether
// there were so many that no further notice is sent to its owner. It must be called before a
// transaction, because counting is one of its own on PostgreSQL.
func (s *Service) countAttempt(ctx context.Context, email string) (suppressed bool, err error) {
	if !s.opts.ConcealEmails {
		return false, nil
	}
	err = s.allow(ctx, "attempt on "+lookup(email), mailByAccount)
	if errs.Is(err, errs.RateLimited) {
		return true, nil
	}
	return false, err
}

// attemptMail returns a notice to the owner of an address that someone tried to use it. If it is
// suppressed, it is a decoy.
func attemptMail(owner *model.User, suppressed bool) mail.Message {
	m := noticeMail(mail.RegistrationAttempt, owner)
	m.Decoy = suppressed
	return m
}

func (s *Service) requireInvitation(code *string) error {
	switch {
	case s.opts.Registration == Closed:
		return errs.New(errs.Forbidden, "Registration is closed on this server.")
	case s.opts.Registration == Invite && code == nil:
		return errs.Input(errs.Required, "invitationCode",
			"This server requires an invitation code.")
	case s.opts.Registration == Invite &&
		subtle.ConstantTimeCompare([]byte(*code), []byte(s.opts.InvitationCode)) == 0:
		return errs.Input(errs.Invalid, "invitationCode", "The invitation code is wrong.")
	}
	return nil
}

// user validates the input and returns it as it is stored.
func (in Register) user() (*model.User, error) {
	var problems errs.List
	u := &model.User{
		ID: model.NewUserID(), ShowPresence: true, SendReadReceipts: true,
		Email:    checkEmail(&problems, "email", in.Email),
		Nickname: checkNickname(&problems, "nickname", in.Nickname),
	}
	checkPassword(&problems, "password", in.Password)
	if in.DisplayName != nil {
		u.DisplayName = checkDisplayName(&problems, "displayName", *in.DisplayName)
	}
	u.EmailKey, u.NicknameKey = text.Fold(u.Email), text.Fold(u.Nickname)
	u.SearchKey = SearchKey(u)
	return u, problems.Err()
}

// SearchKey returns the text that a search for users matches. The line break keeps a search from
// matching across the two names.
func SearchKey(u *model.User) string {
	if u.DisplayName == nil {
		return u.NicknameKey
	}
	return u.NicknameKey + "\n" + text.Fold(*u.DisplayName)
}

func checkEmail(problems *errs.List, path, email string) string {
	email = text.Clean(email)
	parsed, err := netmail.ParseAddress(email) // RFC 5322
	switch {
	case email == "":
		problems.Add(errs.Required, path, "An e-mail address is needed.")
	case len(email) > maxEmail:
		problems.Add(errs.TooLong, path, "An e-mail address has at most %d bytes.", maxEmail)
	case err != nil || parsed.Address != email || text.Problem(email, false) != "" ||
		text.Invisible(email):
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

// checkDisplayName returns nil for a blank name: the user has none then.
func checkDisplayName(problems *errs.List, path, name string) *string {
	name = text.Clean(name)
	switch {
	case name == "":
		return nil
	case text.Problem(name, false) != "":
		problems.Add(errs.Invalid, path, "A display name %s.", negated(text.Problem(name, false)))
	case text.Deceptive(name):
		problems.Add(errs.Invalid, path,
			"A display name has no characters that change the writing direction or end the line.")
	case text.Len(name) > maxDisplayName:
		problems.Add(errs.TooLong, path, "A display name has at most %d characters.",
			maxDisplayName)
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

// requireFree returns an error for each unique name that is taken. If addresses are concealed, it
// returns the owner of a taken address instead.
func (s *Service) requireFree(
	ctx context.Context, tx *store.Tx, u *model.User,
) (owner *model.User, err error) {
	var taken []*model.User
	err = tx.NewSelect().Model(&taken).
		Where("email_key = ? OR nickname_key = ?", u.EmailKey, u.NicknameKey).Scan(ctx)
	if err != nil {
		return nil, err
	}
	var problems errs.List
	for _, other := range taken {
		if other.EmailKey == u.EmailKey {
			if s.opts.ConcealEmails {
				owner = other
			} else {
				problems = append(problems, errEmailTaken)
			}
		}
		if other.NicknameKey == u.NicknameKey {
			problems.Add(errs.Taken, "nickname", nicknameTaken)
		}
	}
	return owner, problems.Err()
}

const nicknameTaken = "This nickname is taken."

const emailTaken = "There is an account with this e-mail address."

var errEmailTaken = errs.Input(errs.Taken, "email", emailTaken)

// insertUser stores a user. A name may be taken although requireFree found it free: the database
// decides.
func insertUser(ctx context.Context, tx *store.Tx, stored bool, u *model.User) error {
	err := tx.InsertWhen(ctx, stored, u, "")
	switch {
	case store.UniqueEmail.BrokenBy(err):
		return errEmailTaken
	case store.UniqueNickname.BrokenBy(err):
		return errs.Input(errs.Taken, "nickname", nicknameTaken)
	}
	return err
}
