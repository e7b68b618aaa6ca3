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

// templates make one kind of mail. The text has the subject too.
type templates struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

func parseTemplates() (map[Kind]templates, error) {
	all := map[Kind]templates{}
	for _, kind := range kinds() {
		text, err := texttemplate.ParseFS(files, "templates/layout.txt", "templates/"+string(kind)+".txt")
		if err != nil {
			return nil, fmt.Errorf("mail: %w", err)
		}
		html, err := htmltemplate.ParseFS(files, "templates/layout.html", "templates/"+string(kind)+".html")
		if err != nil {
			return nil, fmt.Errorf("mail: %w", err)
		}
		all[kind] = templates{text, html}
	}
	return all, nil
}

// content is what the templates see.
type content struct {
	Server   string
	Nickname string // empty: the greeting does without
	Link     string
	Subject  string
}

// compose makes the mail that a row stands for. Its Message-ID and its date are the same at every
// attempt. Its errors name no recipient.
func (o *Outbox) compose(m *row) (*gomail.Msg, error) {
	t, ok := o.templates[m.Kind]
	if !ok {
		return nil, errors.New("there is no template")
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
		return nil, errors.New("the sender cannot be read")
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(from)
	if err := msg.To(m.Recipient); err != nil {
		return nil, errors.New("the recipient cannot be read") // the cause quotes it
	}
	msg.Subject(c.Subject)
	msg.SetMessageIDWithValue(m.ID.String() + from.Address[strings.LastIndex(from.Address, "@"):])
	msg.SetDateWithValue(m.CreatedAt)
	// Keep programs from answering: RFC 3834, section 5, and what Exchange listens to instead.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	msg.SetBodyString(gomail.TypeTextPlain, text.String())
	msg.AddAlternativeString(gomail.TypeTextHTML, html.String())
	return msg, nil
}

// greetable returns a nickname that may stand in a mail, and nothing for others: whoever registers
// with a stranger's address chooses what this server writes to the stranger, and mail programs make
// links of what looks like one.
func greetable(nickname string) string {
	for _, r := range nickname {
		if !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Number) && !strings.ContainsRune(" -_'’", r) {
			return ""
		}
	}
	return nickname
}
