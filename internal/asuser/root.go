package asuser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// Root is a directory under which users write. Its methods act with the rights of the calling
// thread; those of Cred act as the user. No path leads out of it, through a symbolic link, or
// through a magic link of /proc.
type Root struct {
	name string
	fd   int
}

const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// OpenRoot opens a directory that an administrator named; links in dir itself are followed.
func OpenRoot(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Root{name: dir, fd: fd}, nil
}

// Close releases the directory; files opened beneath it stay open.
func (r *Root) Close() error { return unix.Close(r.fd) }

// Name returns the path that OpenRoot was given.
func (r *Root) Name() string { return r.name }

// OpenFile opens rel beneath the root with O_CLOEXEC and O_NONBLOCK, so that a FIFO or a lease
// cannot hold the caller. A link on the way is refused with an Error of code Forbidden.
func (r *Root) OpenFile(rel string, flags int, perm os.FileMode) (*os.File, error) {
	fd, err := r.open(r.fd, rel, flags|unix.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(r.name, rel)), nil
}

func (r *Root) open(dir int, rel string, flags int, perm os.FileMode) (int, error) {
	if err := checkPath(rel); err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: beneath}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	for range 100 {
		fd, err := unix.Openat2(dir, rel, &how)
		switch {
		case err == nil:
			return fd, nil
		case err == unix.EINTR:
			continue
		case err == unix.ELOOP || err == unix.EXDEV:
			return -1, dspool.Errorf(dspool.Forbidden, "%s is or lies behind a link: %w", dspool.Quote(rel), err).
				WithHint("replace the link by the file or directory itself")
		case err == unix.ENXIO:
			return -1, notRegular(rel)
		}
		return -1, &fs.PathError{Op: "open", Path: filepath.Join(r.name, rel), Err: err}
	}
	return -1, &fs.PathError{Op: "open", Path: filepath.Join(r.name, rel), Err: unix.EINTR}
}

func checkPath(rel string) error {
	if !filepath.IsLocal(rel) || strings.ContainsRune(rel, 0) {
		return dspool.Errorf(dspool.Invalid, "path %s does not stay in its tree", dspool.Quote(rel))
	}
	return nil
}

// OpenOwned is OpenFile for a regular file of user uid. Anything else, such as a FIFO, a device
// or a hard link to another's file, is refused with an Error of code Forbidden, unread and unwritten.
func (r *Root) OpenOwned(rel string, flags int, perm os.FileMode, uid int) (*os.File, error) {
	// O_TRUNC would act before the owner is known.
	fd, err := r.open(r.fd, rel, flags&^unix.O_TRUNC|unix.O_NONBLOCK|unix.O_NOCTTY, perm)
	if err != nil {
		return nil, err
	}
	if err := r.vet(fd, rel, flags, uid); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(r.name, rel)), nil
}

func (r *Root) vet(fd int, rel string, flags, uid int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: filepath.Join(r.name, rel), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return notRegular(rel)
	}
	if int(st.Uid) != uid {
		return dspool.Errorf(dspool.Forbidden, "%s belongs to another user", dspool.Quote(rel)).WithHint("remove it; dspool makes its own")
	}
	if flags&unix.O_TRUNC != 0 {
		if err := unix.Ftruncate(fd, 0); err != nil {
			return &fs.PathError{Op: "truncate", Path: filepath.Join(r.name, rel), Err: err}
		}
	}
	// Whoever inherits the file expects it to block.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&unix.O_APPEND); err != nil {
		return &fs.PathError{Op: "fcntl", Path: filepath.Join(r.name, rel), Err: err}
	}
	return nil
}

func notRegular(rel string) error {
	return dspool.Errorf(dspool.Forbidden, "%s is not a regular file", dspool.Quote(rel)).WithHint("remove it; dspool makes its own")
}

// MkdirAll makes rel and what is missing above it, with perm less the umask.
func (r *Root) MkdirAll(rel string, perm os.FileMode) error {
	const dirFlags = unix.O_PATH | unix.O_DIRECTORY
	if err := checkPath(rel); err != nil {
		return err
	}
	fd, err := r.open(r.fd, rel, dirFlags, 0)
	if err == nil {
		return unix.Close(fd)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := unix.Dup(r.fd)
	if err != nil {
		return fmt.Errorf("walk to %s: %w", dspool.Quote(rel), err)
	}
	defer func() { unix.Close(dir) }()
	for name := range strings.SplitSeq(filepath.Clean(rel), "/") {
		next, err := r.open(dir, name, dirFlags, 0)
		if errors.Is(err, fs.ErrNotExist) {
			if err := unix.Mkdirat(dir, name, uint32(perm.Perm())); err != nil && err != unix.EEXIST {
				return &fs.PathError{Op: "mkdir", Path: filepath.Join(r.name, rel), Err: err}
			}
			next, err = r.open(dir, name, dirFlags, 0)
		}
		if err != nil {
			return err
		}
		unix.Close(dir)
		dir = next
	}
	return nil
}

// MkdirOwned makes the directory rel for c, as root, in a parent that only root writes; such as
// a home. The parent must exist. A directory that is c's already stays as it is; one that
// belongs to another is refused. An interrupted call is completed by the next.
func (r *Root) MkdirOwned(c Cred, rel string, perm os.FileMode) error {
	if err := errors.Join(c.check(), checkPath(rel)); err != nil {
		return err
	}
	path := filepath.Join(r.name, rel)
	parent, err := r.open(r.fd, filepath.Dir(filepath.Clean(rel)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	// Nobody but root may look into it before it has its owner.
	if err := unix.Mkdirat(parent, filepath.Base(rel), 0o700); err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	fd, err := r.open(parent, filepath.Base(rel), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return dspool.Errorf(dspool.Conflict, "%s is not a directory", path).WithHint("move it away; dspool makes its own")
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case int(st.Uid) == c.UID && c.UID != os.Geteuid():
		return nil
	case int(st.Uid) != os.Geteuid():
		return dspool.Errorf(dspool.Conflict, "directory %s belongs to user id %d, not to %d", path, st.Uid, c.UID).
			WithHint("move it away, or give it to its user with chown")
	}
	// The mode comes first: with the owner set, the directory counts as done.
	if err := unix.Fchmod(fd, uint32(perm.Perm())); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	if err := unix.Fchown(fd, c.UID, c.GID); err != nil {
		return &fs.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}
