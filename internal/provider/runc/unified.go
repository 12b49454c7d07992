package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// unified is where version 2 is mounted when it is the only one.
const unified = "/sys/fs/cgroup"

// controllers2 are those of version 2 that machines need.
var controllers2 = []string{"cpu", "cpuset", "memory", "pids"}

// usable says whether machines could be given groups with limits. It changes nothing.
func (g groups) usable() error {
	if !g.v2 {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(unified, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read control group controllers: %w", err)
	}
	for _, c := range controllers2 {
		if !slices.Contains(strings.Fields(string(text)), c) {
			return dspool.Errorf(dspool.Unavailable, "control groups have no controller %s here: machines could not be limited", c).
				WithHint("in a container, have its host delegate %s; else take cgroup_disable out of the kernel's command line", strings.Join(controllers2, ", "))
		}
	}
	if err := unix.Access(filepath.Join(unified, "cgroup.subtree_control"), unix.W_OK); err != nil {
		return dspool.Errorf(dspool.Unavailable, "control groups cannot be changed here: %w", err).
			WithHint("in a container, start it privileged, with its own control group namespace")
	}
	return nil
}

// prepare enables what machines need from the top of the tree down. At the real top the
// kernel allows that always; in a container the top is an ordinary group, whose processes,
// this one among them, must first move below it.
func (g groups) prepare() error {
	if err := g.usable(); err != nil || !g.v2 {
		return err
	}
	const tries = 10 // what forks while it is moved leaves a child behind
	var err error
	for range tries {
		if err = enable(unified); !errors.Is(err, unix.EBUSY) {
			break
		}
		if err = moveDown(unified, "processes"); err != nil {
			break
		}
	}
	if err != nil {
		return dspool.Errorf(dspool.Unavailable, "enable controllers for control groups: %w", err).
			WithHint("have the host delegate %s", strings.Join(controllers2, ", "))
	}
	return nil
}

func enable(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+strings.Join(controllers2, " +")), 0)
}

// moveDown moves the processes that are in a group itself into a child of it.
func moveDown(dir, child string) error {
	below := filepath.Join(dir, child)
	if err := os.Mkdir(below, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(text)) {
		err := os.WriteFile(filepath.Join(below, "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s: %w", pid, err)
		}
	}
	return nil
}
