package runc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groups are the control groups of an installation: a directory dspool-INSTALLATION at
// the top of every hierarchy, a directory below it per machine.
type groups struct {
	parent      string            // "dspool-INSTALLATION"
	roots       []string          // where hierarchies are mounted
	controllers map[string]string // root by controller, of version 1
	v2          bool              // the one hierarchy has all controllers
}

func openGroups(installation string) (groups, error) {
	g := groups{parent: "dspool-" + installation, controllers: map[string]string{}}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return g, fmt.Errorf("find control groups: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 || !strings.HasPrefix(kind[0], "cgroup") {
			continue
		}
		root := fields[4]
		if slices.Contains(g.roots, root) || !strings.HasPrefix(root, "/sys/fs/cgroup") {
			continue
		}
		g.roots = append(g.roots, root)
		if kind[0] == "cgroup2" {
			g.v2 = root == unified
			continue
		}
		for option := range strings.SplitSeq(kind[2], ",") {
			g.controllers[option] = root
		}
	}
	if len(g.roots) == 0 {
		return g, errors.New("find control groups: no hierarchy is mounted at /sys/fs/cgroup")
	}
	return g, nil
}

func (g groups) path(machine string) string { return "/" + g.parent + "/" + machine }

// list returns the machines that have a control group.
func (g groups) list() ([]string, error) {
	var all []string
	for _, root := range g.roots {
		names, err := subdirectories(filepath.Join(root, g.parent))
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (g groups) dirs(machine string) []string {
	var dirs []string
	for _, root := range g.roots {
		dir := filepath.Join(root, g.parent, machine)
		if _, err := os.Lstat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// delegate gives the machine's root its own group to divide, not the limits on it.
func (g groups) delegate(machine string, uid int) error {
	if g.v2 {
		dir := filepath.Join(unified, g.parent, machine)
		return chownAll(uid, dir, "cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
	}
	for _, controller := range []string{"memory", "cpu", "cpuacct", "pids", "freezer"} {
		root, ok := g.controllers[controller]
		if !ok {
			continue
		}
		if err := chownAll(uid, filepath.Join(root, g.parent, machine), "cgroup.procs", "tasks"); err != nil {
			return err
		}
	}
	return nil
}

func chownAll(uid int, dir string, files ...string) error {
	for _, f := range append(files, ".") {
		if err := os.Lchown(filepath.Join(dir, f), uid, uid); err != nil {
			return fmt.Errorf("delegate control group: %w", err)
		}
	}
	return nil
}

// kill ends every process of the machine, and those given, and returns when none is left.
func (g groups) kill(ctx context.Context, machine string, more ...int) error {
	for {
		pids := append(g.processes(machine), more...)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := kill(pid); err != nil {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		// Its root may have frozen processes, which then do not die.
		g.thaw(machine)
		for _, pid := range pids {
			if err := waitDead(pid, 100*time.Millisecond); err != nil {
				return fmt.Errorf("wait for the end of process %d: %w", pid, err)
			}
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("processes %v did not end: %w", pids, err)
		}
		more = slices.DeleteFunc(more, func(pid int) bool { _, alive := startTime(pid); return !alive })
	}
}

// thaw lets the machine's frozen processes go on. Version 2 kills them frozen.
func (g groups) thaw(machine string) {
	root, ok := g.controllers["freezer"]
	if !ok {
		return
	}
	_ = filepath.WalkDir(filepath.Join(root, g.parent, machine), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.WriteFile(filepath.Join(path, "freezer.state"), []byte("THAWED"), 0)
		}
		return nil
	})
}

func (g groups) processes(machine string) []int {
	var pids []int
	for _, dir := range g.dirs(machine) {
		// Groups come and go below us; the caller looks again until none has a process.
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil
			}
			data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if gone(err) {
		return nil
	}
	return err
}

// waitDead waits, also for what is nobody's child here, at most so long.
func waitDead(pid int, most time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(most.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	return nil
}

// gone: pids of threads and of processes that have ended make these errors.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

// remove removes the machine's groups and those its root made in them.
func (g groups) remove(ctx context.Context, machine string) error {
	for _, dir := range g.dirs(machine) {
		if err := removeGroup(ctx, dir); err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

// removeParent removes the installation's own, empty group.
func (g groups) removeParent() error {
	var errs []error
	for _, root := range g.roots {
		if err := unix.Rmdir(filepath.Join(root, g.parent)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", filepath.Join(root, g.parent), err))
		}
	}
	return errors.Join(errs...)
}

func removeGroup(ctx context.Context, dir string) error {
	children, err := subdirectories(dir)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := removeGroup(ctx, filepath.Join(dir, child)); err != nil {
			return err
		}
	}
	// The kernel lets go of a group a moment after its last process has ended.
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
