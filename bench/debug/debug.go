// Package debug lets bench inspect the memory and CPU profile of a server. bench builds it into the
// servers that it measures. It is not a part of Parley.
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

// Serve starts to serve these paths if the variable Socket is set.
//
//	/free                collects garbage, and returns free memory to the operating system
//	/profile?file=PATH   writes a CPU profile, until /profile/end
//	/heap?file=PATH      writes a profile of the memory in use
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
	mux.HandleFunc("/profile/end",
		func(http.ResponseWriter, *http.Request) { pprof.StopCPUProfile() })
	mux.HandleFunc("/profile", intoFile(func(f *os.File) error { return pprof.StartCPUProfile(f) }))
	mux.HandleFunc("/heap", intoFile(func(f *os.File) error {
		return pprof.Lookup("heap").
			WriteTo(f, 0)
	}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
}

// free collects twice, because the contents of pools survive one collection.
func free() {
	runtime.GC()
	debug.FreeOSMemory()
}

// intoFile returns a handler that calls write with a new file. The file stays open, because a CPU
// profile is written until /profile/end.
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
