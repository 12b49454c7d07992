package initd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// v2 is the machine's own cgroup in the one tree of cgroup v2.
type v2 struct {
	dir     string
	limited bool // the controllers are there; only tests go without
}

// ownGroup is the cgroup of init and of what is not in a slot.
const ownGroup = "dspool-init"

// newV2 moves this process, and its children, into a child of dir, because a cgroup that gives
// controllers to its children may hold no process itself.
func newV2(dir string, controllers []string) (*v2, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("read cgroup controllers: %w", err)
	}
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(text)), c) {
			return nil, dspool.Errorf(dspool.Unavailable, "the cgroup controller %s is not there: attempts could not be limited", c).
				WithHint("enable it on the host and delegate it to the machine")
		}
	}
	if len(controllers) > 0 {
		own := filepath.Join(dir, ownGroup)
		if err := makeGroup(own); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := divide(dir, own, controllers); err != nil {
			return nil, err
		}
	}
	return &v2{dir: dir, limited: len(controllers) > 0}, nil
}

// divide gives the controllers to dir's children once its processes are in own. The agent may
// be started meanwhile, so that there may be more of them after each try.
func divide(dir, own string, controllers []string) error {
	const tries = 100
	for try := 1; ; try++ {
		if err := writeControl(own, "cgroup.procs", "0"); err != nil {
			return err
		}
		pids, err := processesIn(dir)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := writeControl(own, "cgroup.procs", strconv.Itoa(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		err = writeControl(dir, "cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
		if try == tries || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func (h *v2) sweep() error {
	names, err := leftSlots(h.dir)
	errs := []error{err}
	for _, name := range names {
		errs = append(errs, clearLeft(filepath.Join(h.dir, name), false))
	}
	return errors.Join(errs...)
}

func (h *v2) newSlot(name string) (slot, error) {
	dir := filepath.Join(h.dir, name)
	if err := makeGroup(dir); err != nil {
		return nil, err
	}
	s := &slot2{dir: dir, limited: h.limited, events: -1}
	var err1, err2, err3 error
	s.self, err1 = openControl(dir, "", unix.O_PATH|unix.O_DIRECTORY)
	s.procs, err2 = openControl(dir, "cgroup.procs", unix.O_RDONLY)
	if h.limited {
		s.events, err3 = openControl(dir, "memory.events", unix.O_RDONLY)
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

type slot2 struct {
	dir                 string
	limited             bool
	self, procs, events controlFile
	now                 limits
	parts               parts
}

func (s *slot2) limit(l limits) error {
	if l == s.now || !s.limited {
		return nil
	}
	s.now = limits{}
	for _, c := range s.values(l) {
		if err := writeControl(s.dir, c[0], c[1]); err != nil && !(c[0] == "memory.swap.max" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	s.now = l
	return nil
}

// values returns files and what stands in them for l.
func (s *slot2) values(l limits) [][2]string {
	quota := "max"
	if l.quota {
		quota = strconv.FormatInt(l.quotaMicros(), 10)
	}
	return [][2]string{
		{"memory.max", strconv.FormatInt(l.memory, 10)},
		{"memory.swap.max", "0"},
		{"cpu.weight", strconv.FormatInt(min(10_000, max(1, int64(l.cpus*100))), 10)},
		{"cpu.max", quota + " " + strconv.Itoa(quotaPeriod)},
		{"pids.max", strconv.Itoa(l.pids)},
	}
}

func (s *slot2) enter(attr *syscall.SysProcAttr) (func() error, error) {
	attr.UseCgroupFD, attr.CgroupFD = true, int(s.self)
	return func() error { return nil }, nil
}

func (s *slot2) join() []string { return []string{filepath.Join(s.dir, "cgroup.procs")} }

func (s *slot2) pids() ([]int, error) { return s.parts.with(s.procs.processes()) }

func (s *slot2) kill() error {
	err := writeControl(s.dir, "cgroup.kill", "1")
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Kernels before 5.14.
	frozen := writeControl(s.dir, "cgroup.freeze", "1")
	pids, err := s.pids()
	signalAll(pids, unix.SIGKILL)
	return errors.Join(frozen, err, writeControl(s.dir, "cgroup.freeze", "0"))
}

func (s *slot2) oomKills() (int64, error) {
	if !s.limited {
		return 0, nil
	}
	return s.events.count("oom_kill")
}

func (s *slot2) statistics() string { return filepath.Join(s.dir, "memory.stat") }

func (s *slot2) heavy() bool {
	return s.limited && heavyGroup(s.dir, "memory.current")
}

// remove may be tried again while something is still in it.
func (s *slot2) remove() error {
	if err := removeDir(s.dir); err != nil {
		return err
	}
	for _, f := range []controlFile{s.self, s.procs, s.events} {
		f.close()
	}
	s.self, s.procs, s.events = -1, -1, -1
	return nil
}
