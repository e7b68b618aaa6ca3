package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"parley/bench/debug"
)

// target is one of the servers that are measured side by side.
type target interface {
	title() string
	// begin starts it. Topics are numbered from 0; each takes messages, and has so many followers.
	begin(ctx context.Context, topics, followers int) error
	// join opens the connection of a follower, who has everything up to after.
	join(topic, follower int, after int64) (*conn, error)
	send(ctx context.Context, topic int) error
	last(topic int) int64 // the newest seq of a topic
	pid() int
	debug(ctx context.Context, path, file string) error
	stop()
}

func (c *child) pid() int { return c.process.Pid }

// debug asks for what package debug offers.
func (c *child) debug(ctx context.Context, path, file string) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.socket)
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://debug"+path+"?file="+url.QueryEscape(file), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, said)
	}
	return errors.Join(err, response.Body.Close())
}

// parleyIsUp is what Parley logs when it serves, and the other servers after it.
const parleyIsUp = "parley is up"

// startTarget starts a program, with a socket for debugging in dir.
func startTarget(ctx context.Context, dir string, settings []string, command ...string) (*child, error) {
	cmd := exec.Command(command[0], command[1:]...) //nolint:gosec,noctx // ours, and ended by stop
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "PARLEY_") {
			cmd.Env = append(cmd.Env, setting)
		}
	}
	socket := filepath.Join(dir, fmt.Sprintf("debug%d", sockets.Add(1)))
	cmd.Env = append(cmd.Env, debug.Socket+"="+socket,
		"PARLEY_ADDR=127.0.0.1:0", "PARLEY_DATA_DIR="+dir, "PARLEY_LOG_FORMAT=json", "PARLEY_MAX_SOCKETS=1000000",
		"PARLEY_ACCESS_TTL=24h", "PARLEY_RATE_LIMITS=false")
	cmd.Env = append(cmd.Env, settings...)
	c, err := startChild(ctx, cmd, func(line string) string {
		var entry struct{ Msg, API string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != parleyIsUp {
			return ""
		}
		return entry.API
	})
	if c != nil {
		c.socket = socket
	}
	return c, err
}

//nolint:gochecknoglobals // counts what is made
var sockets atomic.Int64

// raw is the client's side of the yardstick, which knows nothing of Parley: its messages look like
// the one in frame.
type raw struct {
	*child
	dir   string
	frame func() []byte
	seqs  []atomic.Int64
}

func (*raw) title() string { return "raw" }

func (y *raw) begin(ctx context.Context, topics, _ int) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(y.dir, 0o700); err != nil {
		return err
	}
	y.seqs = make([]atomic.Int64, topics)
	y.child, err = startTarget(ctx, y.dir, nil, self, yardstickArgument)
	return err
}

func (y *raw) address(topic int) string { return fmt.Sprintf("%s/?%d", y.url, topic) }

func (y *raw) join(topic, _ int, _ int64) (*conn, error) { return dial(y.address(topic), 0) }

func (y *raw) send(ctx context.Context, topic int) error {
	_, err := post(ctx, y.address(topic), "", withStamp(y.frame()))
	if err == nil {
		y.seqs[topic].Add(1)
	}
	return err
}

func (y *raw) last(topic int) int64 { return y.seqs[topic].Load() }

// post sends JSON and returns the answer's body.
func post(ctx context.Context, url, token string, body []byte) (said []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := poster.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	said, err = io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, said)
	}
	return said, err
}

// poster keeps as many connections as there are senders: a new one for each message would be a
// price of its own.
//
//nolint:gochecknoglobals // as http.DefaultClient is
var poster = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// raiseFileLimit has this process, and those that it starts, hold so many connections each.
func raiseFileLimit(need uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if limit.Cur >= need {
		return nil
	}
	limit.Cur, limit.Max = need, max(need, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("%d files have to be open at once, which is more than this user may have (ulimit -n): %w", need, err)
	}
	return nil
}
