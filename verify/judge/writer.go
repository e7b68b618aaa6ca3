package judge

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"
)

// Writer writes a history file while a run goes on. It keeps nothing in memory but a buffer. Its
// methods may be called concurrently.
type Writer struct {
	began time.Time

	mu      sync.Mutex // guards the fields below
	file    *os.File   // nil once it is closed
	buffer  *bufio.Writer
	flushed time.Duration // when the buffer was last written
	ops     int
	err     error // the first one
}

// flushInterval is how long records stay in the buffer, as long as others follow.
const flushInterval = time.Second

// Create makes a history file, or empties it, and writes its first record. command is how to run
// the same plan again.
func Create(path, command string) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w := &Writer{began: time.Now(), file: file, buffer: bufio.NewWriterSize(file, 1<<16)}
	w.Write(Record{Type: Run, Form: form, Command: command})
	return w, nil
}

// Write adds a record with the time of now. Close returns an error of writing.
func (w *Writer) Write(r Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(r)
}

func (w *Writer) write(r Record) {
	if w.file == nil {
		return
	}
	now := time.Since(w.began)
	r.Time = now.Nanoseconds()
	line, err := json.Marshal(r)
	if err == nil {
		_, err = w.buffer.Write(append(line, '\n'))
	}
	if err == nil && now-w.flushed > flushInterval {
		err, w.flushed = w.buffer.Flush(), now
	}
	if err != nil && w.err == nil {
		w.err = err
	}
}

// At returns a time as records have it.
func (w *Writer) At(t time.Time) int64 { return t.Sub(w.began).Nanoseconds() }

// Close writes what is in the buffer. Its error says that records are missing. Later calls do
// nothing, and later records are lost.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.err, w.buffer.Flush(), w.file.Close())
	w.file = nil
	return err
}

// Operation is an operation that has begun.
type Operation struct {
	w       *Writer
	process string
	number  int
}

// Invoke records that an operation begins. It has to be called before the first request is sent.
func (w *Writer) Invoke(r Record) *Operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ops++
	r.Type, r.Op = Invoke, w.ops
	w.write(r)
	return &Operation{w: w, process: r.Process, number: r.Op}
}

// Info records that an attempt had no answer: it may have been executed, or may still be.
func (o *Operation) Info(why error) { o.write(Record{Type: Info, Why: why.Error()}) }

// OK records the answer.
func (o *Operation) OK(answer Record) {
	answer.Type = OK
	o.write(answer)
}

// Fail records that the operation was refused by all attempts.
func (o *Operation) Fail(why error) { o.write(Record{Type: Fail, Why: why.Error()}) }

func (o *Operation) write(r Record) {
	r.Op, r.Process = o.number, o.process
	o.w.Write(r)
}
