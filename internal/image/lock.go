package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// sweep removes the temporary directories that no running build holds. The caller
// holds the lock of key held ("" for none).
func (s *Store) sweep(held string) {
	entries, _ := os.ReadDir(s.path("tmp"))
	for _, e := range entries {
		key, _, _ := strings.Cut(e.Name(), ".")
		if key != held && keyPattern.MatchString(key) {
			f, err := s.tryLock(key)
			if err != nil {
				continue // a build runs, here or in another process
			}
			defer f.Close()
		}
		if err := os.RemoveAll(s.path("tmp", e.Name())); err != nil {
			s.opts.Log.Warn("cannot remove what a killed image build left", "directory", s.path("tmp", e.Name()), "error", err)
		}
	}
}

// sweepLogs removes old logs of builds that made no image.
func (s *Store) sweepLogs(now time.Time) {
	entries, _ := os.ReadDir(s.path("logs"))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || now.Sub(info.ModTime()) < keepLogs {
			continue
		}
		if _, err := s.Lookup(strings.TrimSuffix(e.Name(), ".log")); dspool.ErrorCode(err) == dspool.NotFound {
			os.Remove(s.path("logs", e.Name()))
		}
	}
}

const keepLogs = 30 * 24 * time.Hour

var errLocked = errors.New("locked")

func (s *Store) tryLock(name string) (*os.File, error) { return s.tryFlock(name, unix.LOCK_EX) }

func (s *Store) tryFlock(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(s.path("locks", name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open image lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock image: %w", err)
	}
	return f, nil
}

// lockFile waits for the lock; waiting, if not nil, is called once when it is taken.
func (s *Store) lockFile(ctx context.Context, name string, how int, waiting func()) (*os.File, error) {
	for {
		f, err := s.tryFlock(name, how)
		if err != errLocked {
			return f, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select { // flock cannot be waited for together with a context
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lockUsers guards the marks of who uses what; it is held for moments only.
func (s *Store) lockUsers() (func(), error) {
	f, err := s.lockFile(context.Background(), "users", unix.LOCK_EX, nil)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// keep holds an image that is built upon, so that nobody removes it meanwhile.
func (s *Store) keep(ctx context.Context, img Image) (func(), error) {
	f, err := s.lockFile(ctx, img.Key, unix.LOCK_SH, nil)
	if err != nil {
		return nil, err
	}
	if _, err := s.Lookup(img.Key); err != nil {
		f.Close()
		return nil, dspool.Errorf(dspool.Unavailable, "its parent %s has just been removed: %w", img.Name, err).WithHint("build it again")
	}
	return func() { f.Close() }, nil
}

// writeFile replaces a file so that it is there with its content or not at all.
func writeFile(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
