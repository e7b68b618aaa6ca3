package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"parley/bench/debug"
	"parley/internal/client"
	"parley/internal/process"
)

// serverProcess is a server in a process of its own.
type serverProcess struct {
	process *process.Process
	url     string
	socket  string // of package debug
}

//nolint:gochecknoglobals // makes the names of sockets unique
var sockets atomic.Int64

// startServer starts a program that serves, with a socket of package debug in dir. settings are
// NAME=value.
func startServer(
	ctx context.Context, dir string, settings []string, program string, args ...string,
) (*serverProcess, error) {
	s := &serverProcess{socket: filepath.Join(dir, fmt.Sprintf("debug%d", sockets.Add(1)))}
	cmd := exec.Command(program, args...) //nolint:noctx // stop ends it
	cmd.Env = process.Environment(append([]string{
		debug.Socket + "=" + s.socket, "PARLEY_ADDR=127.0.0.1:0", "PARLEY_DATA_DIR=" + dir,
		"PARLEY_LOG_FORMAT=json",
		"PARLEY_MAX_SOCKETS=1000000", "PARLEY_ACCESS_TTL=24h", "PARLEY_RATE_LIMITS=false",
	}, settings...)...)
	var err error
	s.process, s.url, err = process.Serve(ctx,
		process.Server{Cmd: cmd, URL: process.ParleyAPI, Patience: timeout})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// stop asks the server to stop, and kills it if that takes too long.
func (s *serverProcess) stop() { s.process.Stop(syscall.SIGTERM, timeout) }

func (s *serverProcess) pid() int { return s.process.PID() }

// debug requests a path of package debug.
func (s *serverProcess) debug(ctx context.Context, path, file string) error {
	unix := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		},
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://debug"+path+"?file="+url.QueryEscape(file), nil)
	if err != nil {
		return err
	}
	status, answer, err := client.Do(unix, r)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, answer)
	}
	return err
}

// serve runs this process as a server until ctx ends. It prints the line that Parley logs when it
// serves.
func serve(ctx context.Context, stdout io.Writer, handler http.Handler) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintf(stdout, `{"msg":%q,"api":"http://%s"}`+"\n", process.ParleyIsUp, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// post sends JSON, and returns the body of the answer, whose status has to be 200.
func post(ctx context.Context, url, token string, body []byte) ([]byte, error) {
	status, answer, err := client.Post(ctx, httpClient, url, token, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", url, status, answer)
	}
	return answer, err
}

// httpClient keeps as many connections as there are senders. To open one for each message would be
// a cost of its own.
//
//nolint:gochecknoglobals // as http.DefaultClient is
var httpClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxSenders}}
