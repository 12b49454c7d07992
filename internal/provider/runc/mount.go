package runc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"golang.org/x/sys/unix"
)

// Mount makes mounts what is mounted below the empty directories of a machine. What is there
// is read from the kernel, so nothing can disagree with it, not even after a crash.
func (p *Provider) Mount(ctx context.Context, name string, mounts []provider.Mount) error {
	for _, m := range mounts {
		if err := m.Check(); err != nil {
			return err
		}
		if m.Empty || len(m.Cover) > 0 {
			return dspool.Errorf(dspool.Invalid, "nothing of a running machine can be covered")
		}
	}
	unlock, err := p.lock(ctx, name)
	if err != nil {
		return fmt.Errorf("mount in machine %s: %w", name, err)
	}
	defer unlock()
	r, ok, err := load(p.cfg, name)
	if err != nil {
		return err
	}
	if !ok || !r.running(p.cfg) {
		return dspool.Errorf(dspool.Unavailable, "nothing can be mounted in machine %s: it does not run", name)
	}
	change, err := r.change(mounts)
	if err != nil {
		return fmt.Errorf("mount in machine %s: %w", name, err)
	}
	if len(change.add)+len(change.remove) > 0 {
		err = inMountNamespace(func() error { return change.make(r.PID) })
	}
	if err := errors.Join(err, change.refused); err != nil {
		return fmt.Errorf("mount in machine %s: %w", name, err)
	}
	return nil
}

// place is where something below an empty directory is mounted, or is to be.
type place struct {
	cover     mountLine
	rel       string // of the target, to the cover
	mount     provider.Mount
	tree      int    // what is to be mounted, detached
	mountedID uint64 // of what is mounted there
}

// change is how what is mounted differs from what should be.
type change struct {
	add, remove []place
	refused     error // what cannot be added; it keeps nothing from being taken away
}

func (r record) change(wanted []provider.Mount) (c change, err error) {
	lines, err := mountsOf(r.PID)
	if err != nil {
		return c, err
	}
	covers := map[uint64]mountLine{}
	for _, l := range lines {
		if l.kind == "tmpfs" && l.source == coverSource {
			covers[l.id] = l
		}
	}
	there := map[string]place{}
	for _, l := range lines {
		cover, below := covers[l.parent]
		if _, too := covers[l.id]; below && !too && !slices.Contains(r.Mounts, l.target) {
			there[l.target] = place{cover: cover, rel: strings.TrimPrefix(l.target, cover.target+"/"), mountedID: l.id}
		}
	}
	for _, m := range wanted {
		if _, ok := there[m.Target]; ok {
			delete(there, m.Target)
			continue
		}
		var cover mountLine
		for _, l := range covers {
			if strings.HasPrefix(m.Target, l.target+"/") && len(l.target) > len(cover.target) {
				cover = l
			}
		}
		if cover.target == "" {
			c.refused = dspool.Errorf(dspool.Conflict, "%s lies below nothing that was made to be mounted at", dspool.Quote(m.Target)).
				WithHint("remove the machine; the pool makes another")
			continue
		}
		c.add = append(c.add, place{cover: cover, rel: strings.TrimPrefix(m.Target, cover.target+"/"), mount: m, tree: -1})
	}
	c.remove = slices.Collect(maps.Values(there))
	return c, nil
}

// make runs on a thread with a mount namespace of its own, and leaves it in the machine's.
func (c change) make(pid int) error {
	defer func() {
		for _, p := range c.add {
			if p.tree >= 0 {
				unix.Close(p.tree)
			}
		}
	}()
	var errs []error
	for i, p := range c.add {
		tree, err := cloneTree(p.mount)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.add[i].tree = tree
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	for _, p := range c.remove {
		if err := p.unmount(); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dspool.Quote(path.Join(p.cover.target, p.rel)), err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, p := range c.add {
		if err := p.attach(); err != nil {
			return fmt.Errorf("mount %s: %w", dspool.Quote(p.mount.Target), err)
		}
	}
	return nil
}

// cloneTree returns a detached mount of a folder of the host.
func cloneTree(m provider.Mount) (int, error) {
	fd, err := unix.Open(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open share %s: %w", dspool.Quote(m.Source), err)
	}
	defer unix.Close(fd)
	folder := fd
	if m.Sub != "" {
		if folder, err = openBeneath(fd, m.Sub, 0); err != nil {
			if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EXDEV) {
				return -1, dspool.Errorf(dspool.Forbidden, "folder %s of %s is or lies behind a link, or is none", dspool.Quote(m.Sub), dspool.Quote(m.Source)).
					WithHint("put the directory itself there")
			}
			return -1, fmt.Errorf("open folder %s of %s: %w", dspool.Quote(m.Sub), dspool.Quote(m.Source), err)
		}
		defer unix.Close(folder)
	}
	tree, err := unix.OpenTree(folder, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("clone mount of %s: %w", dspool.Quote(m.Source), err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_SLAVE}
	if m.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(tree)
		return -1, fmt.Errorf("set flags of mount: %w", err)
	}
	return tree, nil
}

const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openBeneath opens a directory below another without following links.
func openBeneath(dir int, rel string, more uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath | more}
	for {
		if fd, err := unix.Openat2(dir, rel, &how); err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// openCover opens the empty directory. The machine's root may have moved directories above it, so
// what is found at its path is believed only when it is that very mount.
func (p place) openCover() (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, p.cover.target, &how)
	if err != nil {
		return -1, err
	}
	if err := isMount(fd, p.cover.id); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func isMount(fd int, id uint64) error {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	if st.Mnt_id != id {
		return errors.New("another mount was found there")
	}
	return nil
}

// attach mounts what was cloned at its place, which is made below the cover where it is missing.
func (p place) attach() error {
	dir, err := p.openCover()
	if err != nil {
		return err
	}
	defer func() { unix.Close(dir) }()
	for name := range strings.SplitSeq(p.rel, "/") {
		switch err := unix.Mkdirat(dir, name, 0o755); err {
		case nil:
			if err := unix.Fchmodat(dir, name, 0o755, 0); err != nil { // whatever our umask
				return err
			}
		case unix.EEXIST:
		default:
			return err
		}
		next, err := openBeneath(dir, name, unix.RESOLVE_NO_XDEV)
		if err != nil {
			return err
		}
		unix.Close(dir)
		dir = next
	}
	return unix.MoveMount(p.tree, "", dir, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// unmount takes away what is mounted at the place. The name is looked up in a directory that only
// the host's root writes.
func (p place) unmount() error {
	dir, err := p.openCover()
	if err != nil {
		return err
	}
	defer func() { unix.Close(dir) }()
	if parent := path.Dir(p.rel); parent != "." {
		next, err := openBeneath(dir, parent, unix.RESOLVE_NO_XDEV)
		if err != nil {
			return err
		}
		unix.Close(dir)
		dir = next
	}
	if err := unix.Fchdir(dir); err != nil { // of this thread only, see inMountNamespace
		return err
	}
	base := path.Base(p.rel)
	top, err := openBeneath(dir, base, 0)
	if err != nil {
		return err
	}
	err = isMount(top, p.mountedID)
	unix.Close(top)
	if err != nil {
		return err
	}
	if err := unix.Unmount(base, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return err
	}
	return unix.Rmdir(base)
}
