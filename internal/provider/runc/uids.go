package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/dspool/dspool"
	"golang.org/x/sys/unix"
)

// Private ranges lie where neither systemd (up to 0x6fffffff), nor /etc/subuid, nor
// Incus gives any: 4,094 ranges of 65,536 ids up to systemd's foreign ids.
const (
	firstPrivate = 0x70000000
	rangeSize    = 1 << 16
	ranges       = 4094
)

// A private range is held by a link HOSTDIR/uids/NUMBER to its machine's directory,
// whichever installation it is of. One whose directory is gone is free again, so a
// server killed between any two steps, or a state directory removed by hand, leaks none.
func uidsDir(cfg Config) string { return filepath.Join(cfg.HostDir, "uids") }

// takeRange returns the first id of the machine's private range; the same one again
// when it has one. The machine's directory exists.
func takeRange(ctx context.Context, cfg Config, name string) (int, error) {
	dir := uidsDir(cfg)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("take private ids: %w", err)
	}
	lock, err := lockFile(ctx, dir+".lock")
	if err != nil {
		return 0, fmt.Errorf("take private ids: %w", err)
	}
	defer lock.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("take private ids: %w", err)
	}
	mine, taken := machineDir(cfg, name), map[int]bool{}
	for _, e := range entries {
		link := filepath.Join(dir, e.Name())
		n, err := strconv.Atoi(e.Name())
		target, err2 := os.Readlink(link)
		if err != nil || err2 != nil {
			continue
		}
		if target == mine {
			return firstPrivate + n*rangeSize, nil
		}
		if _, err := os.Stat(target); errors.Is(err, os.ErrNotExist) {
			err := os.Remove(link)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return 0, fmt.Errorf("free private ids: %w", err)
			}
			continue
		}
		taken[n] = true
	}
	for n := range ranges {
		if !taken[n] {
			if err := os.Symlink(mine, filepath.Join(dir, strconv.Itoa(n))); err != nil {
				return 0, fmt.Errorf("take private ids: %w", err)
			}
			return firstPrivate + n*rangeSize, nil
		}
	}
	return 0, dspool.Errorf(dspool.Unavailable, "all %d ranges of private user ids of this host are taken", ranges)
}

// freeRange gives the machine's range back; its directory is gone.
func freeRange(cfg Config, name string) error {
	entries, err := os.ReadDir(uidsDir(cfg))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("free private ids: %w", err)
	}
	for _, e := range entries {
		link := filepath.Join(uidsDir(cfg), e.Name())
		if target, err := os.Readlink(link); err == nil && target == machineDir(cfg, name) {
			if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("free private ids: %w", err)
			}
		}
	}
	return nil
}

// idMap maps users to themselves and every other id of a machine to its private
// range: a machine's root can neither be nor make a file of another machine's id.
func idMap(private int, users dspool.UIDRange) []syscall.SysProcIDMap {
	var m []syscall.SysProcIDMap
	add := func(inside, outside, size int) {
		if size > 0 {
			m = append(m, syscall.SysProcIDMap{ContainerID: inside, HostID: outside, Size: size})
		}
	}
	add(0, private, min(users.First, rangeSize))
	add(users.First, users.First, users.Last-users.First+1)
	add(users.Last+1, private+users.Last+1, rangeSize-users.Last-1)
	return m
}

// lockFile takes the lock on a file that it makes where missing; closing it gives it back.
func lockFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return f, nil
	}
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		// The waiter ends, and closes the file, when the holder does.
		go func() { <-done; f.Close() }()
		return nil, ctx.Err()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
