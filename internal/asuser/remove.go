package asuser

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// deepest is how far below a tree RemoveAll goes: each level has a file open.
const deepest = 500

// RemoveAll removes rel with all that is in it, as c, and follows no link: one is removed, and what it names stays. What
// c may not remove stays, with an error. What is gone already is no error.
func (c Cred) RemoveAll(ctx context.Context, r *Root, rel string) error {
	rel = filepath.Clean(rel)
	if err := checkPath(rel); err != nil {
		return err
	}
	if rel == "." {
		return dspool.Errorf(dspool.Invalid, "a whole tree is not removed")
	}
	return c.Do(func() error {
		parent, err := r.open(r.fd, filepath.Dir(rel), unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		return r.remove(ctx, parent, filepath.Base(rel), rel, deepest)
	})
}

// remove removes name from a directory; rel is for people.
func (r *Root) remove(ctx context.Context, dir int, name, rel string, levels int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := filepath.Join(r.name, rel)
	switch err := unix.Unlinkat(dir, name, 0); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR:
	default:
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	if levels == 0 {
		return dspool.Errorf(dspool.Forbidden, "%s lies too deep to be removed", dspool.Quote(rel))
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	fd, err := r.open(dir, name, flags, 0)
	if errors.Is(err, os.ErrPermission) {
		// Their own directory may be closed to its owner. Whoever puts a link in its place meanwhile opens a file of theirs.
		_ = unix.Fchmodat(dir, name, 0o700, 0)
		fd, err = r.open(dir, name, flags, 0)
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		if len(names) == 0 {
			if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
				return &os.PathError{Op: "remove", Path: path, Err: err}
			}
			return nil
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			err := r.remove(ctx, int(f.Fd()), n, filepath.Join(rel, n), levels-1)
			if errors.Is(err, os.ErrPermission) && unix.Fchmod(int(f.Fd()), 0o700) == nil {
				err = r.remove(ctx, int(f.Fd()), n, filepath.Join(rel, n), levels-1)
			}
			if err != nil {
				return err
			}
		}
		if _, err := f.Seek(0, 0); err != nil { // what was removed has moved the rest
			return err
		}
	}
}
