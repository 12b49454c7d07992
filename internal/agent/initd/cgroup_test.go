package initd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCgroupDirs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, mounts, own string
		memory, cpu, v2    string
	}{
		{
			"v1 in a cgroup namespace",
			"30 29 0:27 / /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n31 29 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
			"4:memory:/\n3:cpu,cpuacct:/\n",
			"/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct", "",
		},
		{
			"v1 seen from the host",
			"30 29 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n",
			"4:memory:/dspool/x/batch-1\n",
			"/sys/fs/cgroup/memory/dspool/x/batch-1", "", "",
		},
		{
			"v1 mounted from the own cgroup down",
			"30 29 0:27 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"4:memory:/docker/ab\n",
			"/sys/fs/cgroup/memory", "", "",
		},
		{
			"v1 mounted from another cgroup down",
			"30 29 0:27 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"4:memory:/docker/cd\n",
			"", "", "",
		},
		{
			"v2",
			"30 29 0:27 / /sys/fs/cgroup rw,nsdelegate - cgroup2 cgroup2 rw\n",
			"0::/\n",
			"", "", "/sys/fs/cgroup",
		},
		{
			"hybrid",
			"30 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n31 29 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"4:memory:/a\n0::/a\n",
			"/sys/fs/cgroup/memory/a", "", "/sys/fs/cgroup/unified/a",
		},
		{"nothing", "1 0 0:1 / / rw - ext4 /dev/vda rw\n", "0::/\n", "", "", ""},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			v1, v2 := cgroupDirs(c.mounts, c.own)
			if v1["memory"] != c.memory || v1["cpu"] != c.cpu || v2 != c.v2 {
				t.Errorf("%v, %q", v1, v2)
			}
		})
	}
}

func TestV2Values(t *testing.T) {
	t.Parallel()
	s := &slot2{}
	for _, c := range []struct {
		l    limits
		want string
	}{
		{limits{1.5, true, 1 << 30, 10}, "[[memory.max 1073741824] [memory.swap.max 0] [cpu.weight 150] [cpu.max 150000 100000] [pids.max 10]]"},
		{limits{1, false, 1 << 20, 10}, "[[memory.max 1048576] [memory.swap.max 0] [cpu.weight 100] [cpu.max max 100000] [pids.max 10]]"},
		{limits{0.001, true, 1 << 20, 10}, "[[memory.max 1048576] [memory.swap.max 0] [cpu.weight 1] [cpu.max 1000 100000] [pids.max 10]]"},
		{limits{4096, true, 1 << 20, 10}, "[[memory.max 1048576] [memory.swap.max 0] [cpu.weight 10000] [cpu.max 409600000 100000] [pids.max 10]]"},
	} {
		if got := fmt.Sprint(s.values(c.l)); got != c.want {
			t.Errorf("%+v: %s", c.l, got)
		}
	}
}

// The files of a v2 slot, on a tree that is only directories.
func TestV2Limits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range []string{"memory.max", "cpu.weight", "cpu.max", "pids.max", "memory.swap.max"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	events, err := openControl(dir, "memory.events", unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer events.close()
	if err := os.WriteFile(filepath.Join(dir, "memory.current"), []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &usedSlot{slot: &slot2{dir: dir, limited: true, events: events}, oomSeen: 1}
	if err := s.limit(limits{2, false, 512 << 20, 100}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "memory.max")); err != nil || string(text) != "536870912" {
		t.Errorf("memory.max %q, %v", text, err)
	}
	if n, err := s.newOOMKills(); err != nil || n != 1 {
		t.Errorf("%d new kills, %v", n, err)
	}
	if err := (&pool{}).put(s); err != nil {
		t.Fatal(err)
	}
	if n, err := s.newOOMKills(); err != nil || n != 0 {
		t.Errorf("%d new kills for the next in the slot, %v", n, err)
	}
}

func TestV2Slot(t *testing.T) {
	t.Parallel()
	dir := fmt.Sprintf("/sys/fs/cgroup/unified/dspool-initd-test-%d", os.Getpid())
	if os.Geteuid() != 0 || os.Mkdir(dir, 0o755) != nil {
		t.Skip("NOT TESTED: needs a cgroup2 tree at /sys/fs/cgroup/unified that may be written")
	}
	t.Cleanup(func() { _ = unix.Rmdir(dir) })
	if _, err := newV2(dir, []string{"memory"}); err == nil || !strings.Contains(err.Error(), "controller memory") {
		t.Errorf("a tree without controllers is taken: %v", err)
	}
	h, err := newV2(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.newSlot(slotPrefix + "1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.kill(); awaitEmpty(s, time.Second); _ = s.remove() })
	attr := &syscall.SysProcAttr{Setsid: true}
	leave, err := s.enter(attr)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"}, &syscall.ProcAttr{Env: os.Environ(), Sys: attr})
	if err := errors.Join(err, leave()); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for end := time.Now().Add(10 * time.Second); len(pids) != 3 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if pids, err = s.pids(); err != nil {
			t.Fatal(err)
		}
	}
	if len(pids) != 3 || !slices.Contains(pids, pid) {
		t.Errorf("in the slot: %v; the main process is %d", pids, pid)
	}
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil || ws.Signal() != syscall.SIGKILL {
		t.Errorf("main process: %v, %v", ws, err)
	}
	if !awaitEmpty(s, 10*time.Second) {
		t.Error("something lives on")
	}
	if err := s.remove(); err != nil {
		t.Error(err)
	}
}

func TestV2Part(t *testing.T) {
	t.Parallel()
	dir := fmt.Sprintf("/sys/fs/cgroup/unified/dspool-initd-part-test-%d", os.Getpid())
	if os.Geteuid() != 0 || os.Mkdir(dir, 0o755) != nil {
		t.Skip("NOT TESTED: needs a cgroup2 tree at /sys/fs/cgroup/unified that may be written")
	}
	t.Cleanup(func() { _ = unix.Rmdir(dir) })
	h, err := newV2(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.newSlot(slotPrefix + "1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.sweep() }) // also what is below slots
	p, err := s.part("app-1-1")
	if err != nil {
		t.Fatal(err)
	}
	sleep := func(in slot) int {
		attr := &syscall.SysProcAttr{Setsid: true}
		leave, err := in.enter(attr)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "1000"}, &syscall.ProcAttr{Sys: attr})
		if err := errors.Join(err, leave()); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	beside, inside := sleep(s), sleep(p)
	all, err := s.pids()
	if slices.Sort(all); err != nil || !slices.Equal(all, []int{min(beside, inside), max(beside, inside)}) {
		t.Errorf("the slot lists %v, %v", all, err)
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(inside, &ws, 0, nil); err != nil || ws.Signal() != syscall.SIGKILL {
		t.Errorf("in the part: %v, %v", ws, err)
	}
	if pids, err := s.pids(); err != nil || !slices.Equal(pids, []int{beside}) {
		t.Errorf("the slot lists %v, %v", pids, err)
	}
	if err := p.remove(); err != nil {
		t.Error(err)
	}
	q, err := s.part("app-1-2")
	if err != nil {
		t.Fatal(err)
	}
	again := sleep(q)
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{beside, again} {
		if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil || ws.Signal() != syscall.SIGKILL {
			t.Errorf("with the slot: %v, %v", ws, err)
		}
	}
	if err := s.remove(); err == nil {
		t.Error("a slot goes before its parts")
	}
	if err := errors.Join(q.remove(), s.remove()); err != nil {
		t.Error(err)
	}
}

// A child that ends before its pid is known, and a pid that an earlier process had.
func TestReaper(t *testing.T) {
	t.Parallel()
	r := newReaper()
	r.spawning, r.forks = 1, 5
	r.early[42] = earlyExit{fork: 5} // an orphan that ended before the fork that follows
	ended := 0
	note := func(syscall.WaitStatus, time.Time) { ended++ }
	if err := r.spawn(func() (int, error) { return 42, nil }, func(int) {}, note); err != nil || ended != 0 || r.watched[42] == nil {
		t.Errorf("an old end counts for a new process: %d, %v", ended, err)
	}
	err := r.spawn(func() (int, error) {
		r.early[43] = earlyExit{fork: r.forks}
		return 43, nil
	}, func(int) {
		if ended != 0 {
			t.Error("ended before it was started")
		}
	}, note)
	if err != nil || ended != 1 || r.watched[43] != nil {
		t.Errorf("an early end is lost: %d, %v", ended, err)
	}
}

func TestUnownedMemory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stat := func(name, text string) {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "memory.stat"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stat(".", "shmem 7\ntotal_shmem 100\n")
	stat(slotPrefix+"1", "shmem 20\ntotal_shmem 20\n")
	stat(slotPrefix+"user-20001-4", "shmem 30\ntotal_shmem 30\n")
	stat("other", "total_shmem 50\n")
	if n, err := unownedIn(dir, "total_shmem"); err != nil || n != 50 {
		t.Errorf("%d bytes are nobody's, %v", n, err)
	}
	stat(slotPrefix+"2", "total_shmem 90\n") // charged since the others were read
	if n, err := unownedIn(dir, "total_shmem"); err != nil || n != 0 {
		t.Errorf("%d bytes are nobody's, %v", n, err)
	}
}
