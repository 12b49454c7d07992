package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/dspool/dspool"
)

// recorder writes what a terminal shows as an asciicast, version 2.
type recorder struct {
	file  *os.File
	w     *bufio.Writer
	began time.Time
	rest  []byte // the beginning of a character whose end has not come yet
	flush *time.Timer
}

// recordFlush is how much of a recording a crash may cost.
const recordFlush = 2 * time.Second

// newRecorder makes STATE/recordings/USER/DATE-CONNECTION[-N].cast, readable by root only.
func newRecorder(stateDir, user, connection string, n int, term string, cols, rows uint32) (*recorder, error) {
	if err := os.MkdirAll(filepath.Join(stateDir, "recordings"), 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(filepath.Join(stateDir, "recordings"))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := dspool.CheckUserName(user); err != nil {
		return nil, err
	}
	if err := root.MkdirAll(user, 0o700); err != nil {
		return nil, err
	}
	now := time.Now()
	name := now.UTC().Format("20060102T150405Z") + "-" + connection
	if n > 1 {
		name += fmt.Sprintf("-%d", n)
	}
	f, err := root.OpenFile(filepath.Join(user, name+".cast"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	r := &recorder{file: f, w: bufio.NewWriter(f), began: now}
	head, err := json.Marshal(map[string]any{
		"version": 2, "width": max(cols, 1), "height": max(rows, 1), "timestamp": now.Unix(), "env": map[string]string{"TERM": printable(clip(term, 64))},
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	r.w.Write(append(head, '\n'))
	return r, r.w.Flush()
}

func (r *recorder) event(kind, data string) {
	line, err := json.Marshal([]any{time.Since(r.began).Seconds(), kind, data})
	if err == nil {
		r.w.Write(append(line, '\n'))
	}
}

// output records bytes; characters are kept whole.
func (r *recorder) output(b []byte) {
	b = append(r.rest, b...)
	cut := len(b)
	for i := 1; i <= min(utf8.UTFMax, len(b)); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				cut = len(b) - i
			}
			break
		}
	}
	r.rest = append([]byte(nil), b[cut:]...)
	if cut > 0 {
		r.event("o", string(b[:cut]))
	}
}

func (r *recorder) close() {
	if len(r.rest) > 0 {
		r.event("o", string(r.rest))
	}
	r.w.Flush()
	r.file.Close()
}

// beginRecording tells the person and records from now on; a terminal that cannot be recorded is
// not served unrecorded in silence: its person is told, and the log says why.
func (s *session) beginRecording() {
	s.c.mu.Lock()
	s.c.casts++
	n := s.c.casts
	s.c.mu.Unlock()
	r, err := newRecorder(s.c.g.StateDir, s.c.login.identity.User, s.c.id, n, s.term, s.cols.Load(), s.rows.Load())
	text := "what this terminal shows is recorded"
	if err != nil {
		s.c.g.Log.Error("record a terminal", "connection", s.c.id, "err", err)
		text = "this terminal was to be recorded, but cannot be"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(text)
	if err != nil || s.recorder != nil {
		return
	}
	s.recorder = r
	r.flush = time.AfterFunc(recordFlush, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.recorder == r {
			r.w.Flush()
			r.flush.Reset(recordFlush)
		}
	})
}

func (s *session) resizeRecording() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recorder != nil {
		s.recorder.event("r", fmt.Sprintf("%dx%d", s.cols.Load(), s.rows.Load()))
	}
}

func (s *session) endRecording() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.recorder; r != nil {
		s.recorder = nil
		r.flush.Stop()
		r.close()
	}
}
