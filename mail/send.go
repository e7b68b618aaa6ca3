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
	retryable outcome = iota // it has not arrived, and another attempt may succeed
	refused                  // it has not arrived, and never will
	unknown                  // it may have arrived
)

// step is where an attempt failed. The names are in the log and in last_error.
type step string

const (
	stepCompose step = "compose"
	stepConnect step = "connect" // includes signing in
	stepMail    step = "MAIL"
	stepRcpt    step = "RCPT"
	stepStart   step = "start" // storing that the content is about to be handed over
	stepData    step = "DATA"
	stepContent step = "content"
)

// failure is the reason why an attempt did not succeed. It does not contain the recipient.
type failure struct {
	outcome outcome
	step    step
	code    int // the reply code of the server; 0 without one
	reason  string
	cause   error
}

func (f *failure) Error() string { return string(f.step) + ": " + f.reason }
func (f *failure) Unwrap() error { return f.cause }

// send hands a mail over to the relay. It calls start before it sends the content, and only goes on
// if start succeeds.
func (r *relay) send(ctx context.Context, msg *gomail.Msg, start func() error) *failure {
	from, err1 := msg.GetSender(false)
	to, err2 := msg.GetRecipients()
	var encoded bytes.Buffer
	_, err3 := msg.WriteTo(&encoded)
	if err := errors.Join(err1, err2, err3); err != nil {
		return newFailure(ctx, stepCompose, err)
	}

	connecting, cancel := context.WithTimeout(ctx, r.connectTimeout)
	defer cancel()
	c, err := r.dial(connecting)
	if err != nil {
		return newFailure(connecting, stepConnect, err)
	}
	defer c.quit()
	if err := c.Mail(from); err != nil {
		return newFailure(connecting, stepMail, err)
	}
	for _, address := range to {
		if err := c.Rcpt(address); err != nil {
			return newFailure(connecting, stepRcpt, err)
		}
	}
	if !c.detach() {
		return newFailure(connecting, stepStart, connecting.Err())
	}
	if err := start(); err != nil {
		return newFailure(connecting, stepStart, err)
	}
	return r.sendContent(ctx, c, encoded.Bytes())
}

// sendContent sends the content and waits for the answer, for up to stopGrace after the end of ctx:
// if it is interrupted, it is unknown whether the mail has arrived.
func (r *relay) sendContent(ctx context.Context, c *connection, content []byte) *failure {
	longer, cancel := withGrace(ctx, r.stopGrace)
	defer cancel()
	answering, cancel := context.WithTimeout(longer, r.answerTimeout)
	defer cancel()
	c.detach = context.AfterFunc(answering, func() { _ = c.conn.Close() })
	w, err := c.Data()
	if err != nil {
		return newFailure(answering, stepData, err)
	}
	_, err = w.Write(content)
	if err == nil {
		err = w.Close() // sends the final dot, and reads the answer
	}
	if err != nil {
		return newFailure(answering, stepContent, err)
	}
	return nil
}

// newFailure classifies an error by the step at which it came. From MAIL on, a reply code decides.
// Without one, the mail may have arrived only if its content was being sent. Errors before MAIL
// concern the server and its settings and not this mail, so it is retried even if the server calls
// them permanent.
func newFailure(ctx context.Context, at step, err error) *failure {
	f := &failure{
		outcome: retryable, step: at, reason: errs.Clip(err.Error(), maxReason),
		cause: err,
	}
	answer, answered := errors.AsType[*textproto.Error](err)
	if answered {
		f.code = answer.Code
	} else if ctx.Err() != nil {
		f.reason = ctx.Err().Error() // more specific than the error of a closed connection
	}
	beforeMail := at == stepCompose || at == stepConnect || at == stepStart
	switch kind := f.code / 100; {
	case beforeMail:
	case kind == permanentNegative:
		f.outcome = refused
	case at == stepContent && kind != transientNegative:
		f.outcome = unknown
	}
	if beforeMail || at == stepMail {
		return f
	}
	// From RCPT on, the server knows the recipient, and may quote it.
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

// The first digit of reply codes that report a failure (RFC 5321, section 4.2.1).
const (
	transientNegative = 4
	permanentNegative = 5
)

// enhancedStatus matches an enhanced status code (RFC 3463).
var enhancedStatus = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}\b`)

// maxReason is how many characters of an error are stored.
const maxReason = 200
