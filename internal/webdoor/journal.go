package webdoor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// A journal is a file of lines, each a change of one route; the last line of a path counts. Lines are
// written without waiting for the disk: they outlive the process, and after the host's end no upstream is
// left either. The file is written anew when most of it is history.
type journal struct {
	path  string
	file  *os.File
	lines int
}

// entry is a line of the journal, and an element of what a door hands over.
type entry struct {
	Path   string          `json:"path"`
	Data   json.RawMessage `json:"data,omitempty"`   // none: the route is gone
	Active int64           `json:"active,omitempty"` // Unix time in milliseconds
}

// leastHistory is how many lines may be history before that counts.
const leastHistory = 256

func entryOf(r *route) entry {
	return entry{Path: r.Path, Data: r.Data, Active: r.Meter.active.Load()}
}

// openJournal reads a journal and opens it for more. What a killed process left of its last line is
// ignored, like any line that is none.
func openJournal(path string, log *slog.Logger) ([]entry, *journal, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	var order []string
	last := map[string]entry{}
	for line := range bytes.Lines(data) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil || e.Path == "" {
			log.Warn("left out a line of the journal of routes", "bytes", len(line))
			continue
		}
		if _, known := last[e.Path]; !known {
			order = append(order, e.Path)
		}
		last[e.Path] = e
	}
	var entries []entry
	for _, p := range order {
		if e := last[p]; e.Data != nil {
			entries = append(entries, e)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return entries, &journal{path: path, file: f}, nil
}

func (j *journal) add(r *route, t *table) error { return j.append(entryOf(r), t) }

func (j *journal) remove(path string, t *table) error { return j.append(entry{Path: path}, t) }

func (j *journal) append(e entry, t *table) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return err
	}
	j.lines++
	if j.lines > leastHistory && j.lines > 4*t.len() {
		return j.compact(t.all())
	}
	return nil
}

// compact writes the journal anew, with these routes.
func (j *journal) compact(routes []*route) (err error) {
	f, err := os.CreateTemp(filepath.Dir(j.path), filepath.Base(j.path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriter(f)
	out := json.NewEncoder(w)
	for _, r := range routes {
		if err := out.Encode(entryOf(r)); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), j.path); err != nil {
		return err
	}
	j.file.Close()
	j.file, j.lines = f, len(routes)
	return nil
}

func (j *journal) close() error { return j.file.Close() }

// HandOver returns the routes for another process's door, as Options.Inherit takes them. This one goes
// on carrying what it carries, and refuses changes of routes: the journal is the other's.
func (d *Door) HandOver() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, err := d.export()
	if err != nil {
		return nil, err
	}
	d.handed = true
	if d.journal != nil {
		err = d.journal.close()
		d.journal = nil
	}
	return data, err
}

// TakeBack undoes HandOver, for a process whose successor did not come up.
func (d *Door) TakeBack() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.handed {
		return nil
	}
	d.handed = false
	if d.Journal == "" {
		return nil
	}
	_, j, err := openJournal(d.Journal, d.Log)
	if err != nil {
		return fmt.Errorf("open the journal of routes: %w", err)
	}
	d.journal = j
	return j.compact(d.table.all())
}

func (d *Door) export() ([]byte, error) {
	entries := []entry{}
	for _, r := range d.table.all() {
		entries = append(entries, entryOf(r))
	}
	return json.Marshal(entries)
}

// Activity is when each route was last used, for NoteActivity of a door in another process: what is
// still open here counts there.
func (d *Door) Activity() map[string]time.Time {
	when := map[string]time.Time{}
	for _, r := range d.table.all() {
		when[r.Path] = r.Meter.LastActivity()
	}
	return when
}

// NoteActivity takes what another door's Activity said.
func (d *Door) NoteActivity(when map[string]time.Time) {
	for path, t := range when {
		if r := d.table.get(path); r != nil {
			r.Meter.NoteAt(t)
		}
	}
}

func readInherited(data []byte) (entries []entry, err error) {
	if data == nil {
		return nil, nil
	}
	return entries, json.Unmarshal(data, &entries)
}
