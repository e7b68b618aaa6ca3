package mail

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	netmail "net/mail"
	"strings"
	texttemplate "text/template"
	"unicode"

	gomail "github.com/wneessen/go-mail"
)

//go:embed templates
var files embed.FS

// templates are those of one kind of mail. The text template also has the subject.
type templates struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

func parseTemplates() (map[Kind]templates, error) {
	all := map[Kind]templates{}
	for _, kind := range kinds() {
		text, err := texttemplate.ParseFS(files, "templates/layout.txt",
			"templates/"+string(kind)+".txt")
		if err != nil {
			return nil, fmt.Errorf("mail: %w", err)
		}
		html, err := htmltemplate.ParseFS(files, "templates/layout.html",
			"templates/"+string(kind)+".html")
		if err != nil {
			return nil, fmt.Errorf("mail: %w", err)
		}
		all[kind] = templates{text, html}
	}
	return all, nil
}

// content is the data for the templates.
type content struct {
	Server   string
	Nickname string // may be empty
	Link     string
	Subject  string
}

// compose returns the mail of a row. Its Message-ID and its date are the same at every attempt. The
// errors do not contain the recipient.
func (o *Outbox) compose(m *row) (*gomail.Msg, error) {
	t, ok := o.templates[m.Kind]
	if !ok {
		return nil, fmt.Errorf("there is no template for %q", m.Kind)
	}
	c := content{Server: o.opts.Server, Nickname: greetable(m.Nickname), Link: m.Link}
	var subject, text, html bytes.Buffer
	if err := t.text.ExecuteTemplate(&subject, "subject", c); err != nil {
		return nil, err
	}
	c.Subject = strings.TrimSpace(subject.String())
	if err := t.text.ExecuteTemplate(&text, "layout.txt", c); err != nil {
		return nil, err
	}
	if err := t.html.ExecuteTemplate(&html, "layout.html", c); err != nil {
		return nil, err
	}

	from, err := netmail.ParseAddress(o.opts.From)
	if err != nil {
		return nil, errors.New("the sender is not an address")
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(from)
	if err := msg.To(m.Recipient); err != nil {
		return nil, errors.New("the recipient is not an address") // the cause quotes it
	}
	msg.Subject(c.Subject)
	msg.SetMessageIDWithValue(m.ID.String() + from.Address[strings.LastIndex(from.Address, "@"):])
	msg.SetDateWithValue(m.CreatedAt)
	// These prevent automatic answers: RFC 3834, section 5, and the header of Exchange.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	msg.SetBodyString(gomail.TypeTextPlain, text.String())
	msg.AddAlternativeString(gomail.TypeTextHTML, html.String())
	return msg, nil
}

// greetable returns a nickname if it is safe in a mail, and otherwise "". A client that registers
// with someone else's address chooses a text in the mail to them, and mail programs turn text that
// looks like an address into a link.
func greetable(nickname string) string {
	for _, r := range nickname {
		if !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Number) &&
			!strings.ContainsRune(" -_'’", r) {
			return ""
		}
	}
	return nickname
}
