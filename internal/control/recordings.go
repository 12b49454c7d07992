package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// recordingID is what the gateway calls a recording: when it began, its connection and, from the
// second terminal of a connection on, which one it is. In its user's folder the file is ID.cast.
var recordingID = regexp.MustCompile(`^(\d{8}T\d{6}Z)-([a-z2-7]{26})(?:-[1-9]\d{0,5})?$`)

const (
	recordingTime = "20060102T150405Z"
	castSuffix    = ".cast"
	longestHead   = 4 << 10 // bytes of a recording's first line
)

// RecordingQuery selects recordings.
type RecordingQuery struct {
	User   string
	Before string // identifier of the last one already seen
	Limit  int
}

// Recordings lists what terminals showed, newest first.
func (c *Control) Recordings(ctx context.Context, who auth.Subject, q RecordingQuery) (list api.List[api.Recording], err error) {
	list.Items = []api.Recording{}
	if !auth.Can(who, auth.See, auth.Recording, "") {
		return list, forbid("see recordings")
	}
	if q.Before != "" && !recordingID.MatchString(q.Before) {
		return list, noRecording(q.Before)
	}
	folder, err := c.openRecordings()
	if folder == nil || err != nil {
		return list, err
	}
	defer folder.Close()
	found, err := folder.all(q.User)
	if err != nil {
		return list, err
	}
	slices.SortFunc(found, func(a, b recordingFile) int { return strings.Compare(b.id, a.id) })
	limit := pageSize(q.Limit)
	for _, f := range found {
		if q.Before != "" && f.id >= q.Before {
			continue
		}
		if len(list.Items) == limit {
			list.More = true
			break
		}
		r, err := folder.describe(f)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile, or no file of ours
			continue
		} else if err != nil {
			return list, err
		}
		list.Items = append(list.Items, r)
	}
	return list, c.Store.Read(ctx, func(tx *store.Tx) error {
		for i := range list.Items {
			if err := connectedAs(tx, &list.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Recording shows one.
func (c *Control) Recording(ctx context.Context, who auth.Subject, id string) (api.Recording, error) {
	r, f, err := c.recording(ctx, who, id)
	if f != nil {
		f.Close()
	}
	return r, err
}

// OpenRecording opens one to be read from its beginning; that somebody did is an event.
func (c *Control) OpenRecording(ctx context.Context, who auth.Subject, id string) (io.ReadCloser, error) {
	r, f, err := c.recording(ctx, who, id)
	if err != nil {
		return nil, err
	}
	err = c.write(ctx, func(w *work) error {
		return w.event(dspool.Event{Actor: who.Name(), Kind: "recording.read", User: r.User, Pool: r.Pool, Machine: r.Machine,
			Message: fmt.Sprintf("recording %s of %s was read", r.ID, r.User)})
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (c *Control) recording(ctx context.Context, who auth.Subject, id string) (r api.Recording, file *os.File, err error) {
	if !auth.Can(who, auth.See, auth.Recording, "") {
		return r, nil, forbid("see recordings")
	}
	if !recordingID.MatchString(id) {
		return r, nil, noRecording(id)
	}
	folder, err := c.openRecordings()
	if err != nil {
		return r, nil, err
	}
	if folder == nil {
		return r, nil, noRecording(id)
	}
	defer folder.Close()
	all, err := folder.all("")
	if err != nil {
		return r, nil, err
	}
	i := slices.IndexFunc(all, func(f recordingFile) bool { return f.id == id })
	if i < 0 {
		return r, nil, noRecording(id)
	}
	if r, err = folder.describe(all[i]); err == nil {
		file, err = folder.open(all[i])
	}
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil, noRecording(id)
	} else if err != nil {
		return r, nil, err
	}
	if err := c.Store.Read(ctx, func(tx *store.Tx) error { return connectedAs(tx, &r) }); err != nil {
		file.Close()
		return r, nil, err
	}
	return r, file, nil
}

func noRecording(id string) error {
	return dspool.Errorf(dspool.NotFound, "there is no recording %s", dspool.Quote(dspool.Clip(id))).WithHint("`dspool recording list` shows them")
}

// connectedAs fills in what the store knows of a recording's connection, if it still does.
func connectedAs(tx *store.Tx, r *api.Recording) error {
	conn, err := tx.Connection(r.Connection)
	if dspool.ErrorCode(err) == dspool.NotFound || err == nil && conn.User != r.User {
		return nil
	} else if err != nil {
		return err
	}
	r.Session, r.From, r.Auth, r.Open = conn.Session, conn.From, conn.Auth, conn.Ended == nil
	s, err := tx.Session(conn.Session)
	if dspool.ErrorCode(err) == dspool.NotFound {
		return nil
	}
	r.Pool, r.Machine = s.Pool, s.Machine
	return err
}

// recordings is STATE/recordings, in which the gateway keeps a folder for each user. Nothing there is
// followed that is a link.
type recordings struct{ *os.Root }

type recordingFile struct{ user, id string }

func (f recordingFile) path() string { return filepath.Join(f.user, f.id+castSuffix) }

// openRecordings returns nil while nothing has been recorded.
func (c *Control) openRecordings() (*recordings, error) {
	path := filepath.Join(c.StateDir, "recordings")
	if info, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err == nil && !info.IsDir() {
		return nil, fmt.Errorf("open recordings: %s is no folder", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open recordings: %w", err)
	}
	return &recordings{root}, nil
}

// all are the recordings of a user, or of everybody, by their names.
func (d *recordings) all(user string) (found []recordingFile, err error) {
	folders, err := fs.ReadDir(d.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list recordings: %w", err)
	}
	for _, folder := range folders {
		name := folder.Name()
		if !folder.IsDir() || dspool.CheckUserName(name) != nil || user != "" && name != user {
			continue
		}
		files, err := fs.ReadDir(d.FS(), name)
		if err != nil {
			return nil, fmt.Errorf("list recordings of %s: %w", name, err)
		}
		for _, f := range files {
			if id, ok := strings.CutSuffix(f.Name(), castSuffix); ok && f.Type().IsRegular() && recordingID.MatchString(id) {
				found = append(found, recordingFile{name, id})
			}
		}
	}
	return found, nil
}

// open opens a file; what is a link, or anything else, is not there.
func (d *recordings) open(f recordingFile) (*os.File, error) {
	before, err := d.Lstat(f.path())
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	file, err := d.OpenFile(f.path(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	now, err := file.Stat()
	if err == nil && !os.SameFile(before, now) {
		err = fs.ErrNotExist
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// describe reads what a file says of itself.
func (d *recordings) describe(f recordingFile) (r api.Recording, err error) {
	file, err := d.open(f)
	if err != nil {
		return r, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return r, err
	}
	part := recordingID.FindStringSubmatch(f.id)
	r = api.Recording{ID: f.id, User: f.user, Connection: part[2], Bytes: info.Size(), Written: info.ModTime().UTC()}
	if r.Began, err = time.Parse(recordingTime, part[1]); err != nil {
		return r, fs.ErrNotExist // the 32nd of a month
	}
	line, _ := bufio.NewReader(io.LimitReader(file, longestHead)).ReadBytes('\n')
	var head struct{ Width, Height int }
	if json.Unmarshal(line, &head) == nil { // one that is just being begun has none
		r.Columns, r.Rows = head.Width, head.Height
	}
	return r, nil
}
