package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// DefaultReserve is how much of its file system a server keeps for itself, in bytes.
const DefaultReserve = 64 << 20

const (
	reserveFile = "reserve"
	reserveTend = time.Second
	storeAhead  = 8 << 20 // what the store's files may grow by at any time, whoever has filled the disk
)

// reserve is room for the state on a file system that users may fill. A file takes it, and goes when little else
// is left; it comes back when there is room for it and as much again. What the store's files grow into is theirs
// beforehand, so that nobody is faster.
type reserve struct {
	dir  string
	size int64
	log  *slog.Logger

	mu   sync.Mutex
	free int64 // bytes, when it was last looked
	gone bool
	said string // fault that was logged
}

// run tends the reserve until ctx ends.
func (r *reserve) run(ctx context.Context) {
	tick := time.NewTicker(reserveTend)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.tend()
		case <-ctx.Done():
			return
		}
	}
}

// tend gives the reserve up or makes it again.
func (r *reserve) tend() {
	if r.size == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.look()
	switch fault := fmt.Sprint(err); {
	case err == nil:
		r.said = ""
	case fault != r.said:
		r.said = fault
		r.log.Error("keep room for the state", "err", err)
	}
}

func (r *reserve) look() error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return err
	}
	path := filepath.Join(r.dir, reserveFile)
	r.free = int64(st.Bfree) * st.Bsize
	_, err := os.Stat(path)
	r.gone = errors.Is(err, fs.ErrNotExist)
	switch {
	case !r.gone && r.free < r.size/4:
		if err := os.Remove(path); err != nil {
			return err
		}
		r.gone = true
		r.log.Error("the file system of the state is full: the reserve is given up", "directory", r.dir, "left", dspool.FormatBytes(r.free))
	case r.gone && r.free > 2*r.size:
		if err := allocate(path, os.O_CREATE, 0, r.size); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		r.gone = false
	}
	return r.grow()
}

// grow gives the store's files the blocks that they grow into; it takes none twice.
func (r *reserve) grow() error {
	for _, name := range []string{StoreFile, StoreFile + "-wal"} {
		path := filepath.Join(r.dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = allocate(path, 0, unix.FALLOC_FL_KEEP_SIZE, info.Size()+storeAhead)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func allocate(path string, flags int, mode uint32, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o600)
	if err != nil {
		return err
	}
	if err = unix.Fallocate(int(f.Fd()), mode, 0, size); err != nil {
		err = fmt.Errorf("allocate %s: %w", path, err)
	}
	return errors.Join(err, f.Close())
}

// problems says where the reserve is given up.
func (r *reserve) problems() []dspool.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size == 0 || !r.gone {
		return nil
	}
	return []dspool.Reason{dspool.Why(dspool.WhyStateFull, dspool.ReasonParams{Bytes: max(1, r.free)})}
}
