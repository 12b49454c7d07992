package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A run keeps everything in one directory and holds a lock on it as long as it lives.
const (
	workParent = "/var/tmp"
	workPrefix = "dspool-bench-"
)

func workDir() (dir string, remove func() error, err error) {
	if dir, err = os.MkdirTemp(workParent, workPrefix); err != nil {
		return "", nil, err
	}
	lock, err := holdLock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	remove = func() error { return errors.Join(removeCgroups(filepath.Base(dir)), os.RemoveAll(dir), lock.Close()) }
	// The machines' roots pass through it.
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return dir, remove, nil
}

// sweep removes what runs that were killed left behind.
func sweep(ctx context.Context) error {
	entries, err := os.ReadDir(workParent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), workPrefix) {
			continue
		}
		dir := filepath.Join(workParent, e.Name())
		lock, err := holdLock(filepath.Join(dir, "lock"))
		if err != nil {
			continue // that run lives
		}
		progress("removing what a killed run left in %s", dir)
		err = removeInstallation(ctx, filepath.Join(dir, "batch"))
		err = errors.Join(err, removeInstallation(ctx, filepath.Join(dir, "people")))
		err = errors.Join(err, removeInstallation(ctx, filepath.Join(dir, "lab")))
		if err = errors.Join(err, removeCgroups(e.Name()), lock.Close()); err == nil {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			return fmt.Errorf("remove what a killed run left: %w", err)
		}
	}
	return nil
}

// holdLock takes the lock on a file, or fails at once where another process has it.
func holdLock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeCgroups removes those of a container whose runc was killed; it has no processes.
func removeCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		dirs, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, unix.Rmdir(dir))
		}
	}
	return errors.Join(errs...)
}
