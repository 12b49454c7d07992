package runc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/asuser"
	"github.com/dspool/dspool/internal/provider"
	"golang.org/x/sys/unix"
)

// coverSource is what the kernel names as the source of a machine's empty directories. Nobody in
// a machine can mount, so whatever carries it is ours.
const coverSource = "dspool-cover"

// covers are the targets in a machine that are covered by empty directories.
func covers(mounts []provider.Mount) []string {
	var targets []string
	for _, m := range mounts {
		if m.Empty {
			targets = append(targets, m.Target)
			continue
		}
		for _, folder := range m.Cover {
			targets = append(targets, path.Join(m.Target, folder))
		}
	}
	return targets
}

// empty is the directory that covers the target of that index.
func (s stage) empty(i int) string { return filepath.Join(s.cover(), strconv.Itoa(i)) }

// mountCovers makes the empty directories that cover what a machine must not see. Their file
// system and they are the host's root's, whom nobody in the machine is: there nobody can write
// to them, and the server can make places to mount at.
func (s stage) mountCovers(mounts []provider.Mount) error {
	targets := covers(mounts)
	if len(targets) == 0 {
		return nil
	}
	if err := unix.Mount(coverSource, s.cover(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=4m,nr_inodes=4096"); err != nil {
		return fmt.Errorf("mount empty directories: %w", err)
	}
	for i, target := range targets {
		if err := errors.Join(os.Mkdir(s.empty(i), 0o755), os.Chmod(s.empty(i), 0o755)); err != nil {
			return fmt.Errorf("make empty directory: %w", err)
		}
		for _, m := range mounts { // in the machine nobody can make these places
			if below, ok := strings.CutPrefix(m.Target, target+"/"); ok {
				if err := os.MkdirAll(filepath.Join(s.empty(i), below), 0o755); err != nil {
					return fmt.Errorf("make empty directory: %w", err)
				}
			}
		}
	}
	for _, m := range mounts {
		if m.Empty {
			continue
		}
		for _, folder := range m.Cover {
			if err := makeCovered(m.Source, folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeCovered makes the folder of a share that is to be covered, and refuses one that users could
// put elsewhere: then something else would be covered.
func makeCovered(share, folder string) error {
	root, err := asuser.OpenRoot(share)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(folder, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return root.MkdirOwned(asuser.Cred{}, folder, 0o755)
	}
	if err != nil {
		return fmt.Errorf("cover folder of share: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cover folder of share: %w", err)
	}
	if st.Uid != 0 {
		return dspool.Errorf(dspool.Conflict, "folder %s of %s belongs to user id %d", dspool.Quote(folder), dspool.Quote(share), st.Uid).
			WithHint("move it away: it must be root's")
	}
	return nil
}
