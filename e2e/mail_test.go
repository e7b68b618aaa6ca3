package e2e

import (
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"mime"
	"mime/multipart"
	"net"
	netmail "net/mail"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"
)

// mailServer is a real SMTP server with all mailboxes.
type mailServer struct {
	t       *testing.T
	setting string // makes Parley use this server
	arrived chan mail
	mails   []mail // received, and not read by a test
}

// mail is a received mail.
type mail struct {
	to, subject, text string
}

func mustMail(t *testing.T) *mailServer {
	t.Helper()
	s := &mailServer{t: t, arrived: make(chan mail, 100)}
	server := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) {
		return &delivery{server: s}, nil
	}))
	server.ErrorLog = stdlog.New(io.Discard, "", 0)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	s.setting = "PARLEY_SMTP_URL=smtp://" + listener.Addr().String() + "?tls=none"
	return s
}

type delivery struct {
	server *mailServer
	to     string
}

func (*delivery) Reset()                                 {}
func (*delivery) Logout() error                          { return nil }
func (*delivery) Mail(string, *gosmtp.MailOptions) error { return nil }
func (d *delivery) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	d.to = to
	return nil
}

func (d *delivery) Data(content io.Reader) error {
	m, err := read(content)
	if err != nil {
		return err
	}
	m.to = d.to
	d.server.arrived <- m
	return nil
}

// read parses a mail, and finds its plain text.
func read(content io.Reader) (m mail, err error) {
	message, err := netmail.ReadMessage(content)
	if err != nil {
		return m, err
	}
	m.subject, err = new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	_, parameters, errType := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err := errors.Join(err, errType); err != nil {
		return m, err
	}
	parts := multipart.NewReader(message.Body, parameters["boundary"])
	for {
		part, err := parts.NextPart() // it decodes quoted-printable
		if err != nil {
			return m, err
		}
		if strings.HasPrefix(part.Header.Get("Content-Type"), "text/plain") {
			text, err := io.ReadAll(part)
			m.text = string(text)
			return m, err
		}
	}
}

// next returns the next mail to an address, which must have this subject. It keeps mails to other
// addresses.
func (s *mailServer) next(to, subject string) mail {
	s.t.Helper()
	for enough := time.After(patience); ; {
		for i, m := range s.mails {
			if m.to != to {
				continue
			}
			if m.subject != subject {
				s.t.Fatalf("%s got %q, want %q", to, m.subject, subject)
			}
			s.mails = append(s.mails[:i], s.mails[i+1:]...)
			return m
		}
		select {
		case m := <-s.arrived:
			s.mails = append(s.mails, m)
		case <-enough:
			s.t.Fatalf("%s got no mail %q", to, subject)
		}
	}
}

// The subjects of the mails.
const (
	pleaseConfirm    = "Please confirm your address"
	pleaseConfirmNew = "Please confirm your new address"
	aboutToChange    = "Your address is about to change"
	aNewPassword     = "A new password"
	passwordChanged  = "Your password was changed"
	haveOneAlready   = "You have an account already"
)

var linkPattern = regexp.MustCompile(`https?://\S+`)

// link returns the only link in the mail.
func (m mail) link(t *testing.T) string {
	t.Helper()
	found := linkPattern.FindAllString(m.text, -1)
	if len(found) != 1 {
		t.Fatalf("%q has the links %q, want one", m.subject, found)
	}
	return found[0]
}

// tokenOf returns the token of a mailed link.
func tokenOf(t *testing.T, link string) string {
	t.Helper()
	_, token, ok := strings.Cut(link, "#token=")
	if !ok {
		t.Fatalf("there is no token in %s", link)
	}
	return token
}

const verifyEmail = `mutation ($token: String!) { verifyEmail(input: {token: $token}) { userErrors { code } } }`

const verified = `{"verifyEmail": {"userErrors": []}}`

func (p *person) wantEmail(email string, isVerified bool) {
	p.t.Helper()
	p.wants(fmt.Sprintf(`{"viewer": {"email": %q, "emailVerified": %t}}`, email, isVerified),
		`{ viewer { email emailVerified } }`, nil)
}

// follow opens a mailed link, and checks that its token does not stay in the address bar.
func (b *browser) follow(link string) *page {
	b.t.Helper()
	p := b.open(link, link)
	var address string
	p.do("address", nil, &address)
	if where, _, _ := strings.Cut(link, "#"); address != where {
		b.t.Errorf("the page's address is %s, want %s", address, where)
	}
	return p
}

// wantOutcome waits until the page shows an outcome.
func (p *page) wantOutcome(state, text string) {
	p.t.Helper()
	var got struct{ State, Text string }
	p.do("outcome", nil, &got)
	if got.State != state || !strings.Contains(got.Text, text) {
		p.t.Errorf("the page says %q, %q; want %q, with %q in it", got.State, got.Text, state, text)
	}
}

func (p *page) click(testid string) {
	p.t.Helper()
	p.do("click", variables{"testid": testid}, nil)
}

// TestMails follows the links in mails to the built-in pages.
func TestMails(t *testing.T) {
	t.Parallel()
	browser, mails := mustBrowse(t, "account.js"), mustMail(t)
	srv := mustServe(t, mails.setting)
	ada := srv.register("ada")
	const oldEmail, newEmail = "ada@example.org", "countess@example.org"

	// A new address.
	confirm := mails.next(oldEmail, pleaseConfirm).link(t)
	if !strings.HasPrefix(confirm, srv.page+"account/verify-email#token=") {
		t.Errorf("the link is %s", confirm)
	}
	page := browser.follow(confirm)
	ada.wantEmail(oldEmail, false) // opening a link, as scanners do, changes nothing
	page.click("verify-button")
	page.wantOutcome("success", "is confirmed")
	ada.wantEmail(oldEmail, true)
	page = browser.follow(confirm + "&again")
	page.click("verify-button")
	page.wantOutcome("error", "used before")

	// Another address: nothing changes before its link is followed.
	ada.wants(`{"changeEmail": {"userErrors": []}}`,
		`mutation ($email: String!, $password: String!) {
		changeEmail(input: {newEmail: $email, password: $password}) { userErrors { code } }
	}`, variables{"email": newEmail, "password": ada.Password})
	if notice := mails.next(oldEmail, aboutToChange); linkPattern.MatchString(notice.text) ||
		strings.Contains(notice.text, newEmail) {
		t.Errorf("the notice to the old address says more than it should: %s", notice.text)
	}
	page = browser.follow(mails.next(newEmail, pleaseConfirmNew).link(t))
	ada.wantEmail(oldEmail, true)
	page.click("verify-button")
	page.wantOutcome("success", "is confirmed")
	ada.wantEmail(newEmail, true)
	ada.Email = newEmail

	// A forgotten password: every session ends, wherever it is open.
	first, second := ada.connect(), ada.loginAgain().connect()
	srv.anonymous().wants(`{"requestPasswordReset": {"userErrors": []}}`,
		`mutation ($email: String!) { requestPasswordReset(input: {email: $email}) { userErrors { code } } }`, variables{"email": newEmail})
	page = browser.follow(mails.next(newEmail, aNewPassword).link(t))
	page.do("fill", variables{"testid": "reset-password-input", "text": "password"}, nil)
	page.click("reset-button")
	page.wantOutcome("error", "not changed")
	var problem string
	if page.do("text", variables{"testid": "reset-password-error"}, &problem); problem == "" {
		t.Error("the page does not say what is wrong with the password")
	}
	ada.Password = "a password that is hard to guess"
	page.do("fill", variables{"testid": "reset-password-input", "text": ada.Password}, nil)
	page.click("reset-button")
	page.wantOutcome("success", "password is changed")
	first.wantClosed()
	second.wantClosed()
	ada.wantRefused("UNAUTHENTICATED", viewerNickname, nil)
	mails.next(newEmail, passwordChanged)
	srv.anonymous().
		wants(`{"login": {"tokens": null, "userErrors": [{"code": "INVALID_CREDENTIALS"}]}}`,
			`mutation { login(input: {email: "countess@example.org", password: "the password of ada"}) {
			tokens { accessToken } userErrors { code }
		} }`, nil)
	ada.loginAgain().wantEmail(newEmail, true)
	if n := len(srv.links); n > 0 {
		t.Errorf("%d links are in the log, although there is a mail server", n)
	}
}

// TestWithoutSMTP checks that links are logged without SMTP, and work. If the operator has pages of
// their own, the links lead there.
func TestWithoutSMTP(t *testing.T) {
	t.Parallel()
	srv := mustServe(t)
	ada := srv.register("ada")
	srv.anonymous().wants(verified, verifyEmail, variables{"token": tokenOf(t, srv.nextLink())})
	ada.wantEmail(ada.Email, true)

	for setting, begin := range map[string]string{
		"PARLEY_PUBLIC_URL=https://chat.example.org/":                           "https://chat.example.org/account/verify-email#token=",
		"PARLEY_ACCOUNT_LINK=https://app.example.org/do/{action}#token={token}": "https://app.example.org/do/verify-email#token=",
	} {
		srv := mustServe(t, setting)
		grace := srv.register("grace")
		link := srv.nextLink()
		if !strings.HasPrefix(link, begin) {
			t.Errorf("with %s the link is %s", setting, link)
		}
		srv.anonymous().wants(verified, verifyEmail, variables{"token": tokenOf(t, link)})
		grace.wantEmail(grace.Email, true)
	}
}
