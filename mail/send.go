package mail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"regexp"

	gomail "github.com/wneessen/go-mail"

	"parley/errs"
)

// outcome is what a failed attempt means for the mail.
type outcome int

const (
	again   outcome = iota // it has not arrived, and another attempt may succeed
	refused                // it has not arrived, and never will
	unknown                // it may have arrived
)

// failure is why an attempt did not succeed, in words that name no recipient.
type failure struct {
	outcome outcome
	step    string // compose, connect, MAIL, RCPT, start, DATA, content
	code    int    // of the server's answer, 0 where there was none
	reason  string
	cause   error
}

func (f *failure) Error() string { return f.step + ": " + f.reason }
func (f *failure) Unwrap() error { return f.cause }

// send hands one mail to the relay. start is called when nothing but the content is left, and has
// to succeed first.
func (r *relay) send(ctx context.Context, msg *gomail.Msg, start func() error) *failure {
	from, err1 := msg.GetSender(false)
	to, err2 := msg.GetRecipients()
	var whole bytes.Buffer
	_, err3 := msg.WriteTo(&whole)
	if err := errors.Join(err1, err2, err3); err != nil {
		return failed(ctx, "compose", err)
	}

	asking, cancel := context.WithTimeout(ctx, r.connectTimeout)
	defer cancel()
	l, err := r.dial(asking)
	if err != nil {
		return failed(asking, "connect", err)
	}
	defer l.hangUp()
	if err := l.Mail(from); err != nil {
		return failed(asking, "MAIL", err)
	}
	for _, address := range to {
		if err := l.Rcpt(address); err != nil {
			return failed(asking, "RCPT", err)
		}
	}
	if !l.hold() {
		return failed(asking, "start", asking.Err())
	}
	if err := start(); err != nil {
		return failed(asking, "start", err)
	}
	return r.sendContent(ctx, l, whole.Bytes())
}

// sendContent outlives ctx for a moment: cut off here, nobody knows whether the mail has arrived.
func (r *relay) sendContent(ctx context.Context, l *line, whole []byte) *failure {
	longer, cancel := linger(ctx, r.stopGrace)
	defer cancel()
	answering, cancel := context.WithTimeout(longer, r.answerTimeout)
	defer cancel()
	l.hold = context.AfterFunc(answering, func() { _ = l.conn.Close() })
	content, err := l.Data()
	if err != nil {
		return failed(answering, "DATA", err)
	}
	_, err = content.Write(whole)
	if err == nil {
		err = content.Close() // sends the final dot, and reads the answer
	}
	if err != nil {
		return failed(answering, "content", err)
	}
	return nil
}

// failed says what an error means that came at a step. A server's answer is an answer wherever it
// comes; without one, only content that was on its way may have arrived. Whatever goes wrong before
// MAIL is about the server and its settings, not about this mail, so it is tried again even where
// the server calls it permanent.
func failed(ctx context.Context, step string, err error) *failure {
	f := &failure{outcome: again, step: step, reason: errs.Clip(err.Error(), maxReason), cause: err}
	answer, answered := errors.AsType[*textproto.Error](err)
	if answered {
		f.code = answer.Code
	} else if ctx.Err() != nil {
		f.reason = ctx.Err().Error() // that the connection was closed would say less
	}
	beforeMail := step == "compose" || step == "connect" || step == "start"
	switch kind := f.code / 100; {
	case beforeMail:
	case kind == 5:
		f.outcome = refused
	case step == "content" && kind != 4:
		f.outcome = unknown
	}
	if beforeMail || step == "MAIL" {
		return f
	}
	// From here on the server knows the recipient, and likes to quote it.
	if _, garbled := errors.AsType[textproto.ProtocolError](err); garbled {
		f.reason = "the answer is not SMTP"
	} else if answered {
		f.reason = fmt.Sprint(answer.Code)
		if status := enhancedStatus.FindString(answer.Msg); status != "" {
			f.reason += " " + status
		}
	}
	return f
}

// enhancedStatus is RFC 3463's way to say more than a reply code does.
var enhancedStatus = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}\b`)

// maxReason is how many characters of what a server says are kept.
const maxReason = 200
