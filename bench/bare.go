package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bareTask says which bundle runc runs, and how often.
type bareTask struct {
	Runc, Image, Dir, Cgroup string
	Rounds                   int
}

// bareIDs are what the container's ids are mapped to: below dspool's own ranges.
const (
	bareIDs   = 0x6fff0000
	bareCount = 65536
)

func (t bareTask) root() string { return filepath.Join(t.Dir, "rootfs") }
func (t bareTask) run() string  { return filepath.Join(t.Dir, "run") }

// copyConfig makes a bundle of a machine's configuration that differs in nothing but: the
// program is true, and what dspool puts at the machine's disposal for its lifetime (root file
// system, /run, device node, user namespace) is plain and made beforehand.
func (t bareTask) copyConfig(from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var c specs.Spec
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	c.Process.Args = []string{"/bin/true"}
	c.Root.Path = t.root()
	c.Linux.CgroupsPath = t.Cgroup
	for i := range c.Linux.Namespaces {
		c.Linux.Namespaces[i].Path = ""
	}
	c.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: bareIDs, Size: bareCount}}
	c.Linux.GIDMappings = c.Linux.UIDMappings
	c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/fuse" })
	for i := range c.Mounts {
		if c.Mounts[i].Destination == "/run" {
			c.Mounts[i].Source = t.run()
		}
	}
	for _, dir := range []string{t.Dir, t.root(), t.run(), filepath.Join(t.run(), "dspool")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(t.run(), "dspool/dspool"), nil, 0o755); err != nil {
		return err
	}
	if data, err = json.Marshal(c); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.Dir, "config.json"), data, 0o600)
}

// inBare mounts the image as dspool does and runs the bundle, in namespaces of its own.
func inBare(_ context.Context, t bareTask) ([]time.Duration, error) {
	if err := t.mount(); err != nil {
		return nil, err
	}
	state := filepath.Join(t.Dir, "state")
	var took []time.Duration
	for i := range t.Rounds + 2 {
		cmd := exec.Command(t.Runc, "--root", state, "run", "--bundle", t.Dir, fmt.Sprintf("bare-%d", i))
		begun := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("runc run: %w: %s", err, out)
		}
		if i >= 2 { // the first ones warm the caches
			took = append(took, time.Since(begun))
		}
	}
	return took, nil
}

// mount mounts an overlay over the id-mapped image.
func (t bareTask) mount() error {
	lower, upper, work := filepath.Join(t.Dir, "lower"), filepath.Join(t.Dir, "upper"), filepath.Join(t.Dir, "work")
	for _, dir := range []string{lower, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{upper, work, t.run(), filepath.Join(t.run(), "dspool")} {
		if err := os.Chown(dir, bareIDs, bareIDs); err != nil {
			return err
		}
	}
	users, err := idMap()
	if err != nil {
		return err
	}
	defer users.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, t.Image, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("map ids of image: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, lower, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	layers := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",volatile"
	if err := unix.Mount("overlay", t.root(), "overlay", unix.MS_NODEV, layers); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// idMap returns a user namespace with the container's ids.
func idMap() (*os.File, error) {
	cmd := exec.Command("/bin/cat")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: bareIDs, Size: bareCount}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		hold.Close()
		_ = cmd.Wait()
	}()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
}
