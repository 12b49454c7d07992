package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// flatten stores parent and upper as one plain tree: hard links to the parent's files
// with the upper layer applied. No file of the parent is changed: what differs is in
// the upper layer as a file of its own, and is moved.
func (b *build) flatten(ctx context.Context, tree string) error {
	out := &output{log: b.log}
	if err := b.box.hostCommand(ctx, nil, out, "cp", "-a", "-l", "--", b.parent, tree); err != nil {
		if isContext(err) {
			return err
		}
		return fmt.Errorf("link parent's files: %w\n  %s", err, strings.Join(out.tail(), "\n  "))
	}
	upper := b.box.upper
	return filepath.WalkDir(upper, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(upper, p)
		if err != nil {
			return err
		}
		return applyUpper(p, filepath.Join(tree, rel), e)
	})
}

// applyUpper brings one entry of an overlay's upper directory to target. No component
// of target's parent is a link: the walk made each of them a directory before.
func applyUpper(p, target string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if !e.IsDir() {
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 0 {
			return nil // a whiteout: the parent's file was deleted
		}
		if err := dropOverlayAttrs(p); err != nil {
			return err
		}
		return os.Rename(p, target)
	}
	var value [8]byte
	n, err := unix.Lgetxattr(p, "trusted.overlay.opaque", value[:])
	opaque := err == nil && string(value[:n]) == "y"
	if old, err := os.Lstat(target); err == nil && (opaque || !old.IsDir()) {
		if err := os.RemoveAll(target); err != nil {
			return err
		}
	}
	if err := os.Mkdir(target, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyAttrs(p, target); err != nil {
		return err
	}
	return unix.Chmod(target, st.Mode&0o7777)
}

func attrs(p string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil || n == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00"), nil
}

func dropOverlayAttrs(p string) error {
	names, err := attrs(p)
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", p, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") {
			if err := unix.Lremovexattr(p, name); err != nil {
				return fmt.Errorf("remove attribute of %s: %w", p, err)
			}
		}
	}
	return nil
}

func copyAttrs(from, to string) error {
	names, err := attrs(from)
	if err != nil {
		return fmt.Errorf("list attributes of %s: %w", from, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("read attribute of %s: %w", from, err)
		}
		if err := unix.Lsetxattr(to, name, value[:n], 0); err != nil {
			return fmt.Errorf("set attribute of %s: %w", to, err)
		}
	}
	return nil
}

// checkTree refuses a tree that would be no good machine and returns its bytes on
// disk, each file once.
func checkTree(tree string) (int64, error) {
	for _, d := range []string{"dev", "etc", "home", "mnt", "proc", "run", "sys", "tmp", "usr", "var"} {
		if info, err := os.Lstat(filepath.Join(tree, d)); err != nil || !info.IsDir() {
			return 0, dspool.Errorf(dspool.Invalid, "/%s of the image is not a directory", d)
		}
	}
	total, seen := int64(0), map[uint64]bool{}
	err := filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, name := info.Sys().(*syscall.Stat_t), strings.TrimPrefix(p, tree)
		if foreign(st.Uid) || foreign(st.Gid) {
			return dspool.Errorf(dspool.Invalid, "%s in the image belongs to %d:%d", dspool.Quote(name), st.Uid, st.Gid).
				WithHint("images hold no files of people; add a run step: chown root:root %s", name)
		}
		if info.Mode()&(fs.ModeDevice|fs.ModeSocket) != 0 {
			return dspool.Errorf(dspool.Invalid, "%s in the image is a device or a socket", dspool.Quote(name)).WithHint("remove it in a run step")
		}
		if e.IsDir() || st.Nlink == 1 || !seen[st.Ino] {
			total += st.Blocks * 512
			if st.Nlink > 1 {
				seen[st.Ino] = true
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return total, nil
}

// foreign says whether an id is not one of the system's: ids from 1000 are people's,
// and machines map nothing above 65535.
func foreign(id uint32) bool { return id >= 1000 && id != 65534 }
