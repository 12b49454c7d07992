package initd

import (
	"errors"
	"io/fs"
)

// aidSlot is a session's slot with a small one beside it. What fills the memory of a session can stay
// charged to it when nothing of it lives, as a file in /dev/shm does: the next login would be killed as it
// begins, and nobody could remove the file. Such a login enters the aid.
type aidSlot struct {
	slot
	aid slot
}

const (
	// aidMemory is enough for a shell and what removes files.
	aidMemory    = 48 << 20
	aidProcesses = 64
	// leastFree is what a login needs of its session's memory, or of a small session a part of it.
	leastFree     = 16 << 20
	leastFreePart = 8
)

// Aid says where a login goes that finds its session's memory full.
type Aid struct {
	Stat   string   `json:"stat"`   // file of statistics of the session's memory
	Full   int64    `json:"full"`   // what cannot be taken back of it, in bytes, from which on it is full
	Memory int64    `json:"memory"` // of the aid
	Join   []string `json:"join"`
}

func newAidSlot(h hierarchy, name string) (*aidSlot, error) {
	main, err := h.newSlot(name)
	if err != nil {
		return nil, err
	}
	aid, err := h.newSlot(name + "-aid")
	if err != nil {
		return nil, errors.Join(err, main.remove())
	}
	return &aidSlot{main, aid}, nil
}

func (s *aidSlot) limit(l limits) error {
	err := s.slot.limit(l)
	l.memory, l.pids = aidMemory, min(l.pids, aidProcesses)
	return errors.Join(err, s.aid.limit(l))
}

func (s *aidSlot) pids() ([]int, error) {
	pids, err := s.slot.pids()
	if err != nil {
		return nil, err
	}
	more, err := s.aid.pids()
	if errors.Is(err, fs.ErrNotExist) { // it is removed first
		err = nil
	}
	return append(pids, more...), err
}

func (s *aidSlot) kill() error {
	err := s.aid.kill()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.slot.kill())
}

func (s *aidSlot) remove() error {
	if err := s.aid.remove(); err != nil {
		return err
	}
	return s.slot.remove()
}

func (s *aidSlot) status(memory int64) Aid {
	return Aid{Stat: s.slot.statistics(), Full: memory - min(leastFree, memory/leastFreePart), Memory: aidMemory, Join: s.aid.join()}
}

// loginShell is the shell that accounts have. What people start is ended by the kernel before the login
// that carries it, and only a process itself can say so before it begins: sshd hides its own.
const loginShell = `#!/bin/sh
# The shell of a login, which the kernel chooses before the login itself when memory runs out. By dspool.
{ echo 500 >/proc/self/oom_score_adj; } 2>/dev/null
export SHELL=%[1]s
[ $# -gt 0 ] || set -- -l
exec "$SHELL" "$@"
`
