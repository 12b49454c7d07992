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
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// hierarchy makes slots; there is one implementation for cgroup v1 and one for v2.
type hierarchy interface {
	newSlot(name string) (slot, error)
	// sweep kills and removes slots that an earlier init left.
	sweep() error
}

// slot is a cgroup for one attempt at a time.
type slot interface {
	limit(limits) error
	// enter makes the next fork of the calling thread, which is locked, land in the slot.
	// leave must be called after it; when it fails, the thread must be discarded.
	enter(attr *syscall.SysProcAttr) (leave func() error, err error)
	// join returns the files to which a process of root writes its number to enter the slot.
	join() []string
	// part makes a cgroup below the slot; it is removed before the slot.
	part(name string) (slot, error)
	// pids lists what is in the slot and in its parts.
	pids() ([]int, error)
	// kill sends SIGKILL to everything in it and its parts, once; what forks meanwhile may survive.
	kill() error
	// oomKills counts processes that the kernel ever killed in it for memory.
	oomKills() (int64, error)
	// statistics is the file of its memory's.
	statistics() string
	// heavy says that memory is still charged to it that a next attempt should not pay for.
	heavy() bool
	remove() error
}

// limits of one attempt.
type limits struct {
	cpus   float64
	quota  bool
	memory int64 // bytes
	pids   int
}

const slotPrefix = "dspool-slot-"

// quotaPeriod is the kernel's default, in microseconds; a quota below 1 ms is refused by it.
const quotaPeriod = 100_000

func (l limits) quotaMicros() int64 { return max(1000, int64(l.cpus*quotaPeriod)) }

// detect finds the cgroups of this process: v1 where the memory controller is there, else v2.
func detect() (hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read own cgroups: %w", err)
	}
	v1, v2 := cgroupDirs(string(mounts), string(own))
	if v1["memory"] != "" {
		return newV1(v1)
	}
	if v2 != "" {
		return newV2(v2, []string{"cpu", "memory", "pids"})
	}
	return nil, dspool.Errorf(dspool.Unavailable, "no cgroup file system is mounted").
		WithHint("mount the machine's cgroups at /sys/fs/cgroup")
}

// cgroupDirs returns the directory of the own cgroup for every v1 controller, and the one in
// the v2 tree, from the texts of mountinfo and of the cgroup file of a process.
func cgroupDirs(mountinfo, own string) (v1 map[string]string, v2 string) {
	paths := map[string]string{} // by controller; "" is v2
	for line := range strings.Lines(own) {
		if p := strings.SplitN(strings.TrimSpace(line), ":", 3); len(p) == 3 {
			for c := range strings.SplitSeq(p[1], ",") {
				paths[c] = p[2]
			}
		}
	}
	v1 = map[string]string{}
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		mount, super := strings.Fields(left), strings.Fields(right)
		if !ok || len(mount) < 5 || len(super) < 3 {
			continue
		}
		at := func(path string) string {
			rel, err := filepath.Rel(mount[3], path)
			if err != nil || strings.HasPrefix(rel, "..") {
				return "" // mounted from a part of the tree that we are not in
			}
			return filepath.Join(mount[4], rel)
		}
		switch super[0] {
		case "cgroup2":
			if path, ok := paths[""]; ok && v2 == "" {
				v2 = at(path)
			}
		case "cgroup":
			for c := range strings.SplitSeq(super[2], ",") {
				if path, ok := paths[c]; ok && v1[c] == "" {
					v1[c] = at(path)
				}
			}
		}
	}
	return v1, v2
}

// pool keeps slots for reuse.
type pool struct {
	h    hierarchy
	mu   sync.Mutex
	free []*usedSlot
	next int
}

// usedSlot is a slot with the count of kills that are not the current attempt's.
type usedSlot struct {
	slot
	oomSeen int64
}

const maxFreeSlots = 64

func (p *pool) get() (*usedSlot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s, nil
	}
	p.next++
	s, err := p.h.newSlot(slotPrefix + strconv.Itoa(p.next))
	if err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return &usedSlot{slot: s}, nil
}

// put takes back a slot in which nothing lives. It is removed when it should not be used again.
func (p *pool) put(s *usedSlot) error {
	seen, err := s.oomKills()
	s.oomSeen = seen
	if err == nil && !s.heavy() {
		p.mu.Lock()
		if len(p.free) < maxFreeSlots {
			p.free = append(p.free, s)
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
	}
	return s.remove()
}

func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, s := range p.free {
		errs = append(errs, s.remove())
	}
	p.free = nil
	return errors.Join(errs...)
}

// newOOMKills returns how many kills there were of the current attempt.
func (s *usedSlot) newOOMKills() (int64, error) {
	n, err := s.oomKills()
	return n - s.oomSeen, err
}

// controlFile is an open cgroup file that is read or written many times.
type controlFile int

func openControl(dir, name string, flags int) (controlFile, error) {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return controlFile(fd), nil
}

func (f controlFile) close() {
	if f >= 0 {
		unix.Close(int(f))
	}
}

func (f controlFile) write(s string) error {
	for {
		if _, err := unix.Pwrite(int(f), []byte(s), 0); err != unix.EINTR {
			return err
		}
	}
}

func (f controlFile) read() (string, error) {
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := unix.Pread(int(f), buf, int64(len(text)))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return string(text), err
		}
		text = append(text, buf[:n]...)
	}
}

// processes reads a cgroup.procs file, without this process and those that cannot be seen.
func (f controlFile) processes() ([]int, error) {
	text, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("read processes of a cgroup: %w", err)
	}
	var pids []int
	for line := range strings.Lines(text) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("read processes of a cgroup: %w", err)
		}
		// While a thread of this process is in a v1 slot, the slot lists the whole process.
		if pid > 0 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func processesIn(dir string) ([]int, error) {
	f, err := openControl(dir, "cgroup.procs", unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.close()
	return f.processes()
}

// count reads the number behind key in a file of "key number" lines; 0 when it is not there.
func (f controlFile) count(key string) (int64, error) {
	text, err := f.read()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, nil
}

func writeControl(dir, name, value string) error {
	path := filepath.Join(dir, name)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		unix.Close(fd)
	}
	if err != nil {
		return &fs.PathError{Op: "write " + value + " to", Path: path, Err: err}
	}
	return nil
}

func readControl(dir, name string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// leftSlots lists slots that stand in dir.
func leftSlots(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !e.IsDir() || !strings.HasPrefix(e.Name(), slotPrefix) })
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// makeGroup makes a cgroup in which programs may read their limits, whatever the umask.
func makeGroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

func removeDir(dir string) error {
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

func signalAll(pids []int, signals ...syscall.Signal) {
	for _, pid := range pids {
		for _, s := range signals {
			// A process that has ended meanwhile is no error, and another cannot be.
			_ = unix.Kill(pid, s)
		}
	}
}
