package initd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// v1 is the machine's own cgroup in the separate trees of cgroup v1.
type v1 struct {
	memory, cpu, pids, freezer string
	dirs                       []string      // of the four, each once
	home                       []controlFile // their tasks files
}

func newV1(dirs map[string]string) (*v1, error) {
	h := &v1{memory: dirs["memory"], cpu: dirs["cpu"], pids: dirs["pids"], freezer: dirs["freezer"]}
	for _, c := range []string{"memory", "cpu", "pids", "freezer"} {
		dir := dirs[c]
		if dir == "" {
			return nil, dspool.Errorf(dspool.Unavailable, "the cgroup controller %s is not there: attempts could not be limited and ended", c).
				WithHint("enable it on the host and mount it in the machine")
		}
		if slices.Contains(h.dirs, dir) {
			continue // controllers may be mounted together
		}
		f, err := openControl(dir, "tasks", unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		h.dirs = append(h.dirs, dir)
		h.home = append(h.home, f)
	}
	return h, nil
}

func (h *v1) sweep() error {
	var errs []error
	for _, dir := range h.dirs {
		names, err := leftSlots(dir)
		errs = append(errs, err)
		for _, name := range names {
			errs = append(errs, clearLeft(filepath.Join(dir, name), dir == h.freezer))
		}
	}
	return errors.Join(errs...)
}

// clearLeft kills what is in the cgroup dir, and removes it.
func clearLeft(dir string, freezer bool) error {
	if freezer {
		_ = writeControl(dir, "freezer.state", "THAWED")
	}
	below, err := leftSlots(dir)
	if err != nil {
		return err
	}
	for _, name := range below {
		if err := clearLeft(filepath.Join(dir, name), freezer); err != nil {
			return err
		}
	}
	for range 100 {
		pids, err := processesIn(dir)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return removeDir(dir)
		}
		signalAll(pids, unix.SIGKILL)
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("clear cgroup %s: its processes do not end", dir)
}

func (h *v1) newSlot(name string) (slot, error) {
	s := &slot1{h: h, name: name}
	for _, dir := range h.dirs {
		if err := makeGroup(filepath.Join(dir, name)); err != nil {
			return nil, errors.Join(err, s.remove())
		}
		f, err := openControl(filepath.Join(dir, name), "tasks", unix.O_WRONLY)
		if err != nil {
			return nil, errors.Join(err, s.remove())
		}
		s.tasks = append(s.tasks, f)
	}
	oom, err := openControl(filepath.Join(h.memory, name), "memory.oom_control", unix.O_RDONLY)
	if err != nil {
		return nil, errors.Join(err, s.remove())
	}
	s.oom = oom
	return s, nil
}

type slot1 struct {
	h     *v1
	name  string
	tasks []controlFile
	oom   controlFile
	now   limits
	parts parts
}

func (s *slot1) limit(l limits) error {
	if l == s.now {
		return nil
	}
	old := s.now
	s.now = limits{} // until all are set
	mem, cpu := filepath.Join(s.h.memory, s.name), filepath.Join(s.h.cpu, s.name)
	if l.memory != old.memory {
		if err := limitMemoryV1(mem, l.memory); err != nil {
			return err
		}
	}
	shares := max(2, int64(l.cpus*1024))
	if err := writeControl(cpu, "cpu.shares", strconv.FormatInt(shares, 10)); err != nil {
		return err
	}
	quota := int64(-1)
	if l.quota {
		quota = l.quotaMicros()
	}
	// A kernel without bandwidth control has no such file; shares still hold.
	if err := writeControl(cpu, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := writeControl(filepath.Join(s.h.pids, s.name), "pids.max", strconv.Itoa(l.pids)); err != nil {
		return err
	}
	s.now = l
	return nil
}

// limitMemoryV1 sets memory, and memory with swap to the same where the kernel counts it. The
// second may never be below the first, so that the order depends on the direction.
func limitMemoryV1(dir string, bytes int64) error {
	value := strconv.FormatInt(bytes, 10)
	swap := func() error {
		err := writeControl(dir, "memory.memsw.limit_in_bytes", value)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		return err
	}
	err := writeControl(dir, "memory.limit_in_bytes", value)
	if errors.Is(err, unix.EINVAL) { // above the limit with swap: raise that first
		if err := swap(); err != nil {
			return err
		}
		return writeControl(dir, "memory.limit_in_bytes", value)
	}
	if err != nil {
		return err
	}
	return swap()
}

// enter moves the calling thread, whose child is born where it stands.
func (s *slot1) enter(*syscall.SysProcAttr) (func() error, error) {
	for i, f := range s.tasks {
		if err := f.write("0"); err != nil {
			return nil, errors.Join(fmt.Errorf("enter cgroup %s: %w", filepath.Join(s.h.dirs[i], s.name), err), s.leave())
		}
	}
	return s.leave, nil
}

func (s *slot1) leave() error {
	for i, f := range s.h.home {
		if err := f.write("0"); err != nil {
			return fmt.Errorf("%w: return to cgroup %s: %w", errThread, s.h.dirs[i], err)
		}
	}
	return nil
}

func (s *slot1) join() []string {
	var files []string
	for _, dir := range slices.Backward(s.h.dirs) {
		files = append(files, filepath.Join(dir, s.name, "cgroup.procs"))
	}
	return files
}

// pids opens the file anew, because v1 shows an open one the same list for a second and more.
func (s *slot1) pids() ([]int, error) {
	return s.parts.with(processesIn(filepath.Join(s.h.freezer, s.name)))
}

func (s *slot1) kill() error { return killFrozen(filepath.Join(s.h.freezer, s.name), s.pids) }

// killFrozen freezes a cgroup, and those below it, first, so that no fork loop outruns it.
func killFrozen(dir string, list func() ([]int, error)) error {
	frozen := writeControl(dir, "freezer.state", "FROZEN")
	pids, err := list()
	signalAll(pids, unix.SIGKILL)
	return errors.Join(frozen, err, writeControl(dir, "freezer.state", "THAWED"))
}

func (s *slot1) oomKills() (int64, error) { return s.oom.count("oom_kill") }

func (s *slot1) statistics() string { return filepath.Join(s.h.memory, s.name, "memory.stat") }

func (s *slot1) heavy() bool {
	return heavyGroup(filepath.Join(s.h.memory, s.name), "memory.usage_in_bytes")
}

// remove may be tried again while something is still in it. It goes against the order of
// join, and stops at what is not empty: whoever enters meanwhile is still found in the freezer.
func (s *slot1) remove() error {
	for _, dir := range s.h.dirs {
		if err := removeDir(filepath.Join(dir, s.name)); err != nil {
			return err
		}
	}
	for _, f := range append(s.tasks, s.oom) {
		if f > 0 {
			f.close()
		}
	}
	s.tasks, s.oom = nil, -1
	return nil
}
