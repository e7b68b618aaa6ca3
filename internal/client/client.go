// Package client has what programs that use Parley's API from outside have in common: GraphQL over
// HTTP, and the messages of graphql-transport-ws. It knows nothing about the server's code, so that
// its users do not share the server's mistakes.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Operation is a request to the API: the body of a POST, and the payload of a subscribe message.
type Operation struct {
	Query     string `json:"query"`
	Variables any    `json:"variables"`
}

// Answer is the body of the API's answer.
type Answer struct {
	Data   json.RawMessage `json:"data"`
	Errors []Error         `json:"errors"`
}

// Error is an error of GraphQL in an answer.
type Error struct {
	Message    string     `json:"message"`
	Path       []any      `json:"path"`
	Extensions Extensions `json:"extensions"`
}

// Extensions are what Parley adds to an error.
type Extensions struct {
	Code         string `json:"code"`
	RetryAfterMs int64  `json:"retryAfterMs"` // 0 if there is none
	ErrorID      string `json:"errorId"`      // of an internal error
	Cursor       string `json:"cursor"`       // of HISTORY_CHANGED: where to begin again
}

// Codes of errors.
const (
	Forbidden       = "FORBIDDEN"
	HistoryChanged  = "HISTORY_CHANGED"
	Internal        = "INTERNAL_SERVER_ERROR"
	NotFound        = "NOT_FOUND"
	RateLimited     = "RATE_LIMITED"
	TokenExpired    = "TOKEN_EXPIRED"
	Unauthenticated = "UNAUTHENTICATED"
	Unavailable     = "UNAVAILABLE"
)

// maxAnswer bounds how much of an answer is read, in bytes.
const maxAnswer = 64 << 20

// NewRequest returns a POST of JSON. An empty token makes it anonymous.
func NewRequest(ctx context.Context, url, token string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r, nil
}

// Do sends a request, and returns the status and the body of the answer, whatever the status is.
func Do(c *http.Client, r *http.Request) (status int, body []byte, err error) {
	response, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return response.StatusCode, body, err
}

// Post sends JSON, and returns the status and the body of the answer, whatever the status is.
func Post(
	ctx context.Context, c *http.Client, url, token string, body []byte,
) (status int, answer []byte, err error) {
	r, err := NewRequest(ctx, url, token, body)
	if err != nil {
		return 0, nil, err
	}
	return Do(c, r)
}
