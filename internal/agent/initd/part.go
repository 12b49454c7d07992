package initd

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// parts are the cgroups below a slot, one for each program that is to be listed and ended by
// itself. They have no limits of their own: what is in them counts for those of the slot.
type parts struct {
	mu   sync.Mutex
	list []slot
}

func (p *parts) add(s slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, s)
}

func (p *parts) drop(s slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = slices.DeleteFunc(p.list, func(o slot) bool { return o == s })
}

// with adds the processes of the parts to those of the slot itself.
func (p *parts) with(pids []int, err error) ([]int, error) {
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.list {
		more, err := s.pids()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// part1 is one only in the freezer's tree of v1: in the others its processes are in the slot.
type part1 struct {
	of    *slot1
	dir   string
	tasks controlFile
}

func (s *slot1) part(name string) (slot, error) {
	p := &part1{of: s, dir: filepath.Join(s.h.freezer, s.name, slotPrefix+name), tasks: -1}
	if err := makeGroup(p.dir); err != nil {
		return nil, err
	}
	f, err := openControl(p.dir, "tasks", unix.O_WRONLY)
	if err != nil {
		return nil, errors.Join(err, removeDir(p.dir))
	}
	p.tasks = f
	s.parts.add(p)
	return p, nil
}

func (p *part1) enter(attr *syscall.SysProcAttr) (func() error, error) {
	leave, err := p.of.enter(attr)
	if err != nil {
		return nil, err
	}
	if err := p.tasks.write("0"); err != nil {
		return nil, errors.Join(err, leave())
	}
	return leave, nil
}

func (p *part1) pids() ([]int, error)      { return processesIn(p.dir) }
func (p *part1) kill() error               { return killFrozen(p.dir, p.pids) }
func (p *part1) oomKills() (int64, error)  { return p.of.oomKills() }
func (p *part1) limit(limits) error        { return errors.ErrUnsupported }
func (p *part1) part(string) (slot, error) { return nil, errors.ErrUnsupported }
func (p *part1) join() []string            { return nil }
func (p *part1) statistics() string        { return p.of.statistics() }
func (p *part1) heavy() bool               { return false }

func (p *part1) remove() error {
	if err := removeDir(p.dir); err != nil {
		return err
	}
	p.of.parts.drop(p)
	p.tasks.close()
	p.tasks = -1
	return nil
}

// part2 is a cgroup of v2 to which the slot gives no controllers, so that both may hold processes.
type part2 struct {
	*slot2
	of *slot2
}

func (s *slot2) part(name string) (slot, error) {
	h := &v2{dir: s.dir}
	made, err := h.newSlot(slotPrefix + name)
	if err != nil {
		return nil, err
	}
	p := &part2{slot2: made.(*slot2), of: s}
	s.parts.add(p)
	return p, nil
}

func (p *part2) oomKills() (int64, error) { return p.of.oomKills() }

func (p *part2) remove() error {
	if err := p.slot2.remove(); err != nil {
		return err
	}
	p.of.parts.drop(p)
	return nil
}
