// Package privatepg starts temporary PostgreSQL servers from the binaries that are installed on the
// machine: primaries, and standbys of them. Each listens on a free port of the loopback interface,
// keeps its data in a temporary folder, and ends with the process that started it. The package is
// for tests, benchmarks and `parley verify --chaos`.
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

// Server is a PostgreSQL server. Its port and its folder stay the same until Stop, however often it
// is restarted, restored or made a standby. Its methods must not be called concurrently.
type Server struct {
	port    int // 0 until the first start
	dir     string
	bin     string
	attr    *syscall.SysProcAttr
	process *os.Process // nil until the first start
	ended   chan struct{}
	primary *Server // the server that this one was copied from, nil if none
	slot    string  // its replication slot there
}

// Start makes an empty cluster and runs a server on it. settings are lines of postgresql.conf. The
// default ones turn flushing to disk off, because the data is temporary.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	bin, err := binaries(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newServer(bin)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, settings); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// newServer returns a server with a folder and without data.
func newServer(bin string) (*Server, error) {
	dir, err := os.MkdirTemp("", "parley-postgres-")
	if err != nil {
		return nil, err
	}
	attr, err := unprivileged(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Server{dir: dir, bin: bin, attr: attr}, nil
}

func (s *Server) start(ctx context.Context, settings []string) error {
	err := s.command(ctx, "initdb", "--pgdata", s.data(), "--username", "parley",
		"--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync")
	if err != nil {
		return err
	}
	if len(settings) == 0 {
		settings = []string{"fsync = off", "synchronous_commit = off", "full_page_writes = off"}
	}
	settings = append([]string{"unix_socket_directories = ''", "max_connections = 200"},
		settings...)
	if err := s.configure("postgresql.conf", settings...); err != nil {
		return err
	}
	return s.runOnFreePort(ctx)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command runs one of PostgreSQL's programs as the user of the server.
func (s *Server) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.SysProcAttr = s.attr
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// configure appends lines to a configuration file. A later line wins.
func (s *Server) configure(file string, lines ...string) error {
	conf, err := os.OpenFile(filepath.Join(s.data(), file), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conf, "\n%s\n", strings.Join(lines, "\n"))
	return errors.Join(err, conf.Close())
}

// runOnFreePort starts the server, the first time on a free port and then always on the same one.
func (s *Server) runOnFreePort(ctx context.Context) (err error) {
	if s.port != 0 {
		return s.run(ctx)
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
		"-D", s.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port),
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...) //nolint:noctx // outlives ctx
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
func (s *Server) URL(database string) string { return URL(database, s) }

// URL returns the URL of a database that is on one of several servers: on the primary among them.
// The hosts are in the order of the servers.
func URL(database string, servers ...*Server) string {
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", s.port))
	}
	return fmt.Sprintf("postgres://parley@%s/%s?sslmode=disable", strings.Join(hosts, ","),
		database)
}

// Address returns the host and port of this server.
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// PID returns the process id of the server, for measuring its CPU time and memory.
func (s *Server) PID() int { return s.process.Pid }

// Kill ends the server at once (PostgreSQL's "immediate shutdown"), and keeps its data and its
// port. Restart, RestoreFrom and Follow start it again. It does nothing if the server has ended.
func (s *Server) Kill() error {
	if s.process == nil {
		return nil
	}
	if err := s.process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return nil
}

// Restart kills the server, unless it has ended, and starts it again at the same address after a
// time. It recovers from its log. Committed transactions survive if the server was started with
// settings that flush them; the default ones do not.
func (s *Server) Restart(ctx context.Context, after time.Duration) error {
	if err := s.Kill(); err != nil {
		return err
	}
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.run(ctx)
}

// Stop ends the server and deletes its folder.
func (s *Server) Stop() error {
	_ = s.Kill()
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
