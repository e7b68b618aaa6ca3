// Package debug lets bench look into a server that it has started: it is built into that by bench
// alone, and is no part of Parley.
package debug

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"
)

// Socket is the environment variable with the path of the Unix socket to listen on.
const Socket = "BENCH_DEBUG_SOCKET"

// Serve answers what bench asks for, where Socket is set.
//
//	/free                collects what is garbage, and gives free memory back to the operating system
//	/profile?file=PATH   writes a profile of the CPU, until /profile/end
//	/heap?file=PATH      writes a profile of what is in use
func Serve() {
	path := os.Getenv(Socket)
	if path == "" {
		return
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "debug:", err)
		os.Exit(1)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/free", func(http.ResponseWriter, *http.Request) { free() })
	mux.HandleFunc("/profile/end", func(http.ResponseWriter, *http.Request) { pprof.StopCPUProfile() })
	mux.HandleFunc("/profile", intoFile(func(f *os.File) error { return pprof.StartCPUProfile(f) }))
	mux.HandleFunc("/heap", intoFile(func(f *os.File) error { return pprof.Lookup("heap").WriteTo(f, 0) }))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
}

// free collects twice, because what pools keep survives one collection.
func free() {
	runtime.GC()
	debug.FreeOSMemory()
}

// intoFile is a handler that has a file written, which stays open: a profile goes on.
func intoFile(write func(*os.File) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Create(r.FormValue("file"))
		if err == nil {
			err = write(f)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}
