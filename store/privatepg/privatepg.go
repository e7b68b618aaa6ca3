// Package privatepg starts a temporary PostgreSQL server from the binaries that are installed on
// the machine. It listens on a free port of the loopback interface, keeps its data in a temporary
// folder, and ends with the process that started it. It is for tests, benchmarks and `parley verify
// --chaos`.
package privatepg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// ErrNotInstalled is returned if the machine has no PostgreSQL server.
var ErrNotInstalled = errors.New(
	"no PostgreSQL server is installed (Debian: apt-get install postgresql)")

// Server is a running PostgreSQL.
type Server struct {
	port    int
	dir     string
	binary  string
	attr    *syscall.SysProcAttr
	process *os.Process
	ended   chan struct{}
}

// Start makes an empty cluster and runs a server on it. settings are lines of postgresql.conf. The
// default ones turn flushing to disk off, because the data is temporary.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	bin, err := binaries(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "parley-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, ended: make(chan struct{})}
	if err := s.start(ctx, bin, settings); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, bin string, settings []string) error {
	attr, err := unprivileged(s.dir)
	if err != nil {
		return err
	}
	s.binary, s.attr = filepath.Join(bin, "postgres"), attr
	data := filepath.Join(s.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"),
		"--pgdata", data, "--username", "parley", "--auth", "trust", "--encoding", "UTF8",
		"--no-locale", "--no-sync")
	initdb.SysProcAttr = attr
	initdb.Dir = s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if len(settings) == 0 {
		settings = []string{"fsync = off", "synchronous_commit = off", "full_page_writes = off"}
	}
	conf, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conf, "\nunix_socket_directories = ''\nmax_connections = 200\n%s\n",
		strings.Join(settings, "\n"))
	if err := errors.Join(err, conf.Close()); err != nil {
		return err
	}
	// Another process may take the free port before the server does.
	for try := 1; ; try++ {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.run(ctx); err == nil || try == 5 {
			return err
		}
	}
}

func (s *Server) run(ctx context.Context) error {
	logFile, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	args := []string{
		"-D", filepath.Join(s.dir, "data"), "-h", "127.0.0.1", "-p",
		strconv.Itoa(s.port),
	}
	cmd := exec.Command(s.binary, args...) //nolint:noctx // outlives ctx
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	attr := *s.attr
	endWithParent(&attr)
	cmd.SysProcAttr = &attr

	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// The kernel sends Pdeathsig when the thread that started the server ends, so this one must
		// live as long as the server.
		runtime.LockOSThread()
		started <- cmd.Start()
		_ = cmd.Wait()
		close(ended)
	}()
	err = errors.Join(<-started, logFile.Close())
	if err != nil {
		return err
	}
	s.process, s.ended = cmd.Process, ended

	db, err := sql.Open("pgx", s.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			out, _ := os.ReadFile(logFile.Name())
			return fmt.Errorf("postgres did not start: %s", out)
		case <-ctx.Done():
			return fmt.Errorf("postgres did not answer: %w", ctx.Err())
		case <-tick.C:
			if db.PingContext(ctx) == nil {
				return nil
			}
		}
	}
}

// URL returns the URL of a database on this server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://parley@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// PID returns the process id of the server, for measuring its CPU time and memory.
func (s *Server) PID() int { return s.process.Pid }

// Restart ends the server at once (PostgreSQL's "immediate shutdown", after which it recovers from
// its log), and starts it again at the same address after a time. Committed transactions survive if
// the server was started with settings that flush them; the default ones do not.
func (s *Server) Restart(ctx context.Context, after time.Duration) error {
	if err := s.process.Signal(syscall.SIGQUIT); err != nil {
		return err
	}
	<-s.ended
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.run(ctx)
}

// Stop ends the server and deletes its folder.
func (s *Server) Stop() error {
	if s.process != nil {
		_ = s.process.Signal(syscall.SIGQUIT)
		<-s.ended
	}
	return os.RemoveAll(s.dir)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // answers at once
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// binaries finds the folder of initdb and postgres: the one that pg_config names, or else the
// newest in Debian's layout.
func binaries(ctx context.Context) (string, error) {
	var candidates []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		candidates = append(candidates, strings.TrimSpace(string(out)))
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(debian, func(a, b string) int { return major(b) - major(a) })
	candidates = append(candidates, debian...)
	if path, err := exec.LookPath("postgres"); err == nil {
		candidates = append(candidates, filepath.Dir(path))
	}
	for _, dir := range candidates {
		_, err1 := os.Stat(filepath.Join(dir, "initdb"))
		_, err2 := os.Stat(filepath.Join(dir, "postgres"))
		if err1 == nil && err2 == nil {
			return dir, nil
		}
	}
	return "", ErrNotInstalled
}

func major(bindir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bindir)))
	return n
}

// unprivileged gives the folder to a user who may run PostgreSQL, which refuses root, and returns
// the attributes of a process of that user.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return nil, err
		}
		credential := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return &syscall.SysProcAttr{Credential: credential}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user " +
		"postgres or nobody to run it as")
}
