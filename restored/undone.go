package restored

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"parley/auth"
	"parley/chat"
	"parley/model"
	"parley/store"
)

// kind is a kind of change that a restore has undone, as it is listed.
type kind struct {
	title string
	redo  string // how an operator or a person does it again
}

// The kinds, in the order of the list.
//
//nolint:gochecknoglobals // constants
var (
	sessions = &kind{
		"Sessions that had ended are live again", "run this command again with --redo.",
	}
	passwords = &kind{
		"Accounts have the password from before a change",
		"the person uses changePassword or requestPasswordReset.",
	}
	emails = &kind{
		"Accounts have the e-mail address from before a change",
		"the person uses changeEmail.",
	}
	accounts = &kind{
		"Accounts that were removed are there again",
		"the person uses deleteAccount, with the password of the backup.",
	}
	conversations = &kind{
		"Conversations that had ended are there again",
		`the owner sends leaveConversation(input: {conversationId: "CONVERSATION"})`,
	}
	members = &kind{
		"Members who left or were removed are members again",
		`the owner or an admin sends removeMember(input: {conversationId: "CONVERSATION", ` +
			`userId: "USER"})`,
	}
	messages = &kind{
		"Messages that were deleted have their text again",
		`the author, the owner or an admin sends deleteMessage(input: {messageId: "MESSAGE"})`,
	}
	kinds = []*kind{
		sessions, passwords, emails, accounts, conversations, members, messages,
	}
)

// undone is a change that a restore has undone.
type undone struct {
	kind *kind
	at   time.Time
	ids  string // of what was changed

	session model.SessionID // of the kind sessions
}

// undoneList collects what a restore has undone.
type undoneList struct {
	db    *store.DB
	since time.Time
	lines map[string]line // the newest line about each change
	order []string
}

// add adds a line of a log if it is about a change since the backup.
func (u *undoneList) add(l line) {
	if !l.at.After(u.since) {
		return
	}
	switch l.message {
	case auth.AuditLog:
		if !auth.CanBeUndone(l.values["action"]) {
			return
		}
	case auth.AccountRemovedLog, chat.MessageDeletedLog, chat.MemberRemovedLog,
		chat.ConversationEndedLog:
	default:
		return
	}
	about := strings.Join([]string{
		l.message, l.values["action"], l.values["session"], l.values["user"],
		l.values["conversation"], l.values["message"],
	}, " ")
	if _, known := u.lines[about]; !known {
		u.order = append(u.order, about)
	}
	if l.at.After(u.lines[about].at) {
		u.lines[about] = l
	}
}

// find returns the changes that the database does not know.
func (u *undoneList) find(ctx context.Context) (found []undone, err error) {
	seen := map[string]bool{}
	for _, about := range u.order {
		one, err := u.check(ctx, u.lines[about])
		if err != nil {
			return nil, err
		}
		if one == nil || seen[one.kind.title+one.ids] { // as a session that ended twice
			continue
		}
		seen[one.kind.title+one.ids] = true
		found = append(found, *one)
	}
	return found, nil
}

// check returns the change that a line is about, or nil if the database knows it, or if what was
// changed is not there.
func (u *undoneList) check(ctx context.Context, l line) (*undone, error) {
	switch l.message {
	case auth.AuditLog:
		return u.checkAudit(ctx, l)
	case auth.AccountRemovedLog:
		user, err := model.ParseID[model.UserID](l.values["user"])
		if err != nil {
			return nil, nil //nolint:nilnil,nilerr // not a line of this version
		}
		there, err := auth.AccountExists(ctx, u.db, user)
		return undoneIf(there, undone{kind: accounts, at: l.at, ids: user.String()}), err
	}
	return u.checkChat(ctx, l)
}

func (u *undoneList) checkAudit(ctx context.Context, l line) (*undone, error) {
	entry := auth.AuditLine{At: l.at, Action: l.values["action"]}
	one := undone{at: l.at}
	if user, err := model.ParseID[model.UserID](l.values["user"]); err == nil {
		entry.User = &user
		one.ids = user.String()
	}
	if session, err := model.ParseID[model.SessionID](l.values["session"]); err == nil {
		entry.Session, one.session = &session, session
	}
	what, err := auth.UndoneBy(ctx, u.db, entry)
	switch what {
	case auth.SessionUndone:
		one.kind, one.ids = sessions, one.session.String()+" of "+one.ids
	case auth.PasswordUndone:
		one.kind = passwords
	case auth.EmailUndone:
		one.kind = emails
	default:
		return nil, err
	}
	return &one, err
}

func (u *undoneList) checkChat(ctx context.Context, l line) (*undone, error) {
	id, err := model.ParseID[model.ConversationID](l.values["conversation"])
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // not a line of this version
	}
	one := undone{at: l.at, ids: id.String()}
	var there bool
	switch l.message {
	case chat.ConversationEndedLog:
		one.kind = conversations
		there, err = u.db.NewSelect().Model((*model.Conversation)(nil)).Where("c.id = ?", id).
			Exists(ctx)
	case chat.MemberRemovedLog:
		user, err1 := model.ParseID[model.UserID](l.values["user"])
		if err1 != nil {
			return nil, nil //nolint:nilnil,nilerr // not a line of this version
		}
		one.kind, one.ids = members, user.String()+" in "+one.ids
		there, err = u.db.NewSelect().Model((*model.ConversationMember)(nil)).
			Where("cm.conversation_id = ?", id).Where("cm.user_id = ?", user).Exists(ctx)
	case chat.MessageDeletedLog:
		message, err1 := model.ParseID[model.MessageID](l.values["message"])
		if err1 != nil {
			return nil, nil //nolint:nilnil,nilerr // not a line of this version
		}
		one.kind, one.ids = messages, message.String()+" in "+one.ids
		there, err = u.db.NewSelect().Model((*model.Message)(nil)).Where("m.id = ?", message).
			Where("m.deleted_at IS NULL").Exists(ctx)
	}
	return undoneIf(there, one), store.Error(err)
}

func undoneIf(is bool, one undone) *undone {
	if is {
		return &one
	}
	return nil
}

// write writes the list by kind, and how each kind is done again.
func write(w io.Writer, found []undone) {
	for _, k := range kinds {
		list := slices.DeleteFunc(slices.Clone(found), func(u undone) bool { return u.kind != k })
		if len(list) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s (%d). To do it again, %s\n", k.title, len(list), k.redo)
		for _, u := range list {
			fmt.Fprintf(w, "  %s  %s\n", u.at.UTC().Format(time.RFC3339), u.ids)
		}
	}
}
