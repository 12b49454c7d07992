package runc_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/runc"
)

// share makes a directory as a share has it: everybody writes, as in /tmp.
func share(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func owner(t *testing.T, file string) int {
	t.Helper()
	info, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

func TestUserIDs(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	dir, readOnly := share(t), share(t)
	for _, name := range []string{"m-1", "m-2"} {
		spec := w.spec(name)
		spec.Mounts = []provider.Mount{{Source: dir, Target: "/mnt/team"}, {Source: readOnly, Target: "/mnt/data", ReadOnly: true}}
		w.create(spec)
	}
	const firstPrivate = 0x70000000

	t.Run("a user has the same id on the share as everywhere", func(t *testing.T) {
		w.mustInside("m-1", 20000, "touch", "/mnt/team/user")
		if uid := owner(t, filepath.Join(dir, "user")); uid != 20000 {
			t.Errorf("the file is of %d", uid)
		}
	})
	t.Run("roots of two machines are different nobodies on the share", func(t *testing.T) {
		w.mustInside("m-1", 0, "touch", "/mnt/team/root1")
		w.mustInside("m-2", 0, "touch", "/mnt/team/root2")
		one, two := owner(t, filepath.Join(dir, "root1")), owner(t, filepath.Join(dir, "root2"))
		if one < firstPrivate || two < firstPrivate || one == two {
			t.Errorf("they are %d and %d", one, two)
		}
		w.refused("m-2", 0, "touch", "/mnt/team/root1")
	})
	t.Run("no file of the host's root can be made", func(t *testing.T) {
		w.refused("m-1", 0, "chown", "/mnt/team/root1", "65535000")
		w.mustInside("m-1", 0, "setuid", "/mnt/team/setuid")
		if uid := owner(t, filepath.Join(dir, "setuid")); uid < firstPrivate {
			t.Errorf("the setuid file is of %d", uid)
		}
	})
	t.Run("a setuid file on a share is not honoured", func(t *testing.T) {
		if ids := w.mustInside("m-1", 20000, "run", "/mnt/team/setuid", "ids"); !strings.HasPrefix(ids, "20000 20000 ") {
			t.Errorf("it ran as %q", ids)
		}
		// The same file where setuid is honoured, so that the attack is known to work.
		w.mustInside("m-1", 0, "setuid", "/tmp/setuid")
		if ids := w.mustInside("m-1", 20000, "run", "/tmp/setuid", "ids"); !strings.HasPrefix(ids, "20000 0 ") {
			t.Errorf("on the machine's own disk it ran as %q", ids)
		}
	})
	t.Run("a read-only share is not written, and stays so", func(t *testing.T) {
		w.refused("m-1", 20000, "touch", "/mnt/data/x")
		w.refused("m-1", 0, "remount", "/mnt/data")
		w.refused("m-1", 0, "touch", "/mnt/data/x")
	})
	t.Run("two installations never share a range", func(t *testing.T) {
		other := open(t, nil)
		spec := other.spec("m-1")
		spec.Mounts = []provider.Mount{{Source: dir, Target: "/mnt/team"}}
		other.create(spec)
		other.mustInside("m-1", 0, "touch", "/mnt/team/root3")
		three := owner(t, filepath.Join(dir, "root3"))
		for _, file := range []string{"root1", "root2"} {
			if owner(t, filepath.Join(dir, file)) == three {
				t.Errorf("%d is a root of both", three)
			}
		}
	})
}

func TestRootInsideIsNobodyOutside(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	w.create(w.spec("m-1"))
	for claim, action := range map[string][]string{
		"mount a tmpfs":                       {"mount", "tmpfs", "none", "/mnt"},
		"mount proc anew":                     {"mount", "proc", "proc", "/mnt"},
		"unmount a masked path":               {"umount", "/proc/kcore"},
		"make /proc/sys writable":             {"remount", "/proc/sys"},
		"make a user namespace":               {"unshare"},
		"open the host's disk":                {"mknod", "/tmp/disk", "254", "0"},
		"open a loop device":                  {"mknod", "/tmp/loop", "7", "0"},
		"set the kernel's core pattern":       {"write", "/proc/sys/kernel/core_pattern", "|/tmp/x"},
		"press the magic key":                 {"write", "/proc/sysrq-trigger", "b"},
		"set a release agent":                 {"write", "/sys/fs/cgroup/memory/release_agent", "/tmp/x"},
		"allow itself devices":                {"write", "/sys/fs/cgroup/devices/devices.allow", "a"},
		"leave its cores":                     {"write", "/sys/fs/cgroup/cpuset/cpuset.cpus", "0-63"},
		"raise its processes":                 {"write", "/sys/fs/cgroup/pids/pids.max", "max"},
		"replace the program it shares":       {"write", "/run/dspool/dspool", "x"},
		"write /sys":                          {"write", "/sys/kernel/uevent_helper", "/tmp/x"},
		"read the kernel's memory":            {"read", "/dev/mem"},
		"lower its own limit of user objects": {"write", "/proc/sys/user/max_user_namespaces", "100"},
	} {
		t.Run("it cannot "+claim, func(t *testing.T) {
			t.Log(w.refused("m-1", 0, action...))
		})
	}
	t.Run("it has no devices of the host", func(t *testing.T) {
		allowed := " fd full fuse mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero core console "
		for device := range strings.FieldsSeq(w.mustInside("m-1", 0, "devices")) {
			if !strings.Contains(allowed, " "+device+" ") {
				t.Errorf("it has /dev/%s", device)
			}
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	w := open(t, func(c *runc.Config) { c.PIDs = 60 })
	spec := w.spec("m-1")
	spec.Resources.Memory = 96 << 20
	w.create(spec)

	t.Run("a full disk is the machine's, not the host's", func(t *testing.T) {
		out := w.refused("m-1", 20000, "fill", "/tmp/big", "200")
		if !strings.Contains(out, "no space left") {
			t.Errorf("it ended with %q", out)
		}
		w.mustInside("m-1", 20000, "remove", "/tmp/big")
		w.mustInside("m-1", 20000, "fill", "/tmp/small", "20")
	})
	t.Run("memory beyond the limit kills the task and not the machine", func(t *testing.T) {
		w.mustInside("m-1", 20000, "eat", "32")
		w.refused("m-1", 20000, "eat", "200")
		w.mustInside("m-1", 20000, "ids")
	})
	t.Run("/dev/shm is half of memory", func(t *testing.T) {
		out := w.refused("m-1", 20000, "fill", "/dev/shm/big", "64")
		if !strings.HasPrefix(out, "48") {
			t.Errorf("it took %q MiB of 48", out)
		}
		w.mustInside("m-1", 20000, "remove", "/dev/shm/big")
	})
	t.Run("a fork bomb stops at the machine's limit", func(t *testing.T) {
		out := w.refused("m-1", 20000, "fork", "100")
		if !strings.Contains(out, "stopped before") && !strings.Contains(out, "resource temporarily unavailable") {
			t.Errorf("it ended with %q", out)
		}
		list, err := w.List(t.Context())
		if err != nil || !list[0].Running {
			t.Errorf("the machine did not survive: %+v, %v", list, err)
		}
	})
}

func TestFrozenMachineIsDestroyed(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	w.create(w.spec("m-1"))
	if _, err := os.Stat("/sys/fs/cgroup/freezer"); err != nil {
		t.Skip("no version 1 control groups")
	}
	w.mustInside("m-1", 0, "freeze")
	if err := w.Destroy(t.Context(), "m-1"); err != nil {
		t.Fatal(err)
	}
	w.wantClean("m-1")
}

func TestInotifyOfOneMachineLeavesOthersAll(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	w.create(w.spec("m-1"))
	w.create(w.spec("m-2"))
	before := w.mustInside("m-2", 20000, "inotify", "100")
	w.inBackground("m-1", 0, "inotify", "1000", "/tmp/took")
	w.eventually("one machine holds all it can", func() bool {
		out, err := w.inside("m-1", 0, "read", "/tmp/took")
		return err == nil && out != ""
	})
	if after := w.mustInside("m-2", 20000, "inotify", "100"); after != before {
		t.Errorf("another machine gets %s instances, %s before", after, before)
	}
}
