package initd

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// stuckAfter is how long processes are killed again and again before they count as stuck.
const stuckAfter = 30 * time.Second

// launched notes that a's main process runs.
func (m *machine) launched(a *attempt, s *usedSlot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.slot, a.state, a.begun = s, Running, time.Now()
	a.wall = a.begun.UTC().Round(0)
	close(a.launched)
	go m.watchMemory(a)
}

// memoryLook is how often it is looked whether the kernel killed something of an attempt.
const memoryLook = time.Second

// watchMemory tells of kills for memory while a runs: what waits for a killed worker never ends.
func (m *machine) watchMemory(a *attempt) {
	ticks := time.NewTicker(memoryLook)
	defer ticks.Stop()
	for {
		select {
		case <-a.mainGone:
			return
		case <-ticks.C:
		}
		m.mu.Lock()
		if a.exited || a.state == Ended { // the slot may be another's
			m.mu.Unlock()
			return
		}
		if n := m.oomKillsOf(a); n > a.oomKills {
			a.oomKills = n
			for s := range m.streams {
				s.push(a.snapshot())
			}
		}
		m.mu.Unlock()
	}
}

func (m *machine) oomKillsOf(a *attempt) int64 {
	n, err := a.slot.newOOMKills()
	if err != nil {
		m.log.Warn("out-of-memory kills cannot be read", "attempt", a.spec.ID, "error", err)
		return a.oomKills
	}
	return n
}

// exit is called once, when a's main process has ended: whatever else lives in its slot is
// ended too, at once, or when the grace of a kill under way is over.
func (m *machine) exit(a *attempt, ws syscall.WaitStatus, at time.Time) {
	m.mu.Lock()
	if a.state == Ended { // it was stuck, and given up
		m.mu.Unlock()
		return
	}
	a.exited, a.status, a.elapsed = true, ws, max(0, at.Sub(a.begun))
	close(a.mainGone)
	killing := a.killed != nil
	m.mu.Unlock()
	if killing {
		return // its goroutine concludes
	}
	if pids, err := a.slot.pids(); err == nil && len(pids) == 0 {
		m.conclude(a, nil)
		return
	}
	go func() {
		m.clear(a)
		m.conclude(a, nil)
	}()
}

// kill ends a in a goroutine of its own, unless that is under way or it has ended by itself.
func (m *machine) kill(a *attempt, k Kill) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.killed != nil || a.exited || a.state == Ended {
		return
	}
	a.killed = &k
	go func() {
		<-a.launched
		m.mu.Lock()
		slot := a.slot
		m.mu.Unlock()
		if slot == nil {
			return // it never started
		}
		if k.Grace > 0 {
			pids, err := slot.pids()
			if err != nil {
				m.log.Error("the processes of an attempt cannot be listed", "attempt", k.ID, "error", err)
			}
			signalAll(pids, unix.SIGTERM, unix.SIGCONT)
			awaitEmpty(slot, k.Grace)
		}
		m.clear(a)
		select {
		case <-a.mainGone:
		case <-time.After(stuckAfter):
		}
		m.conclude(a, nil)
	}()
}

// awaitEmpty waits until no process is left in s, or for at most d. Cgroups of v1 give no
// signal for it, so that it looks, ever less often.
func awaitEmpty(s slot, d time.Duration) bool {
	const first, most = time.Millisecond, 50 * time.Millisecond
	end := time.Now().Add(d)
	for pause := first; ; pause = min(most, 2*pause) {
		if pids, err := s.pids(); err == nil && len(pids) == 0 {
			return true
		}
		if time.Now().Add(pause).After(end) {
			return false
		}
		time.Sleep(pause)
	}
}

// clear kills until a's slot is empty, or gives up on what the kernel does not end.
func (m *machine) clear(a *attempt) {
	stuck := m.empty(a.slot, "attempt", a.spec.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	a.stuck = stuck
}

// empty kills until nothing is left in s. It returns how many processes the kernel did not end.
func (m *machine) empty(s slot, what string, id int64) (stuck int) {
	end := time.Now().Add(stuckAfter)
	for pause := 5 * time.Millisecond; !awaitEmpty(s, 0); pause = min(time.Second, 2*pause) {
		if err := s.kill(); err != nil {
			m.log.Error("processes cannot be killed", "of", what, "id", id, "error", err)
		}
		if awaitEmpty(s, pause) {
			return 0
		}
		if time.Now().After(end) {
			pids, _ := s.pids()
			m.log.Error("processes do not end", "of", what, "id", id, "pids", pids)
			return max(1, len(pids))
		}
	}
	return 0
}

// conclude removes what is left of a, writes down how it ended, frees its slot and tells the streams.
// err is why it could not start; nil if it ran.
func (m *machine) conclude(a *attempt, err error) {
	if !m.tenants.leave(a.spec.UID) {
		m.settle(a, err)
		return
	}
	go func() { // it may take long, and this may be the reaper
		m.tidy(a.spec.UID)
		m.settle(a, err)
	}()
}

func (m *machine) settle(a *attempt, err error) {
	kills := int64(0)
	if a.slot != nil {
		kills = m.oomKillsOf(a)
		// A slot with a process in it is never used again.
		if a.stuck == 0 {
			m.giveBack(a.slot)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a.state, a.oomKills = Ended, kills
	switch {
	case err != nil:
		a.fault, a.code = notStarted(err)
		a.hostFault = a.code == nil && a.fault.Is(hostFaults...)
		close(a.launched)
	case a.exited:
		code := a.status.ExitStatus()
		if a.status.Signaled() {
			code = 128 + int(a.status.Signal())
		}
		a.code = &code
	default: // stuck
		a.elapsed = time.Since(a.begun)
	}
	close(a.over)
	for s := range m.streams {
		s.push(a.snapshot())
	}
}

// snapshot is called with machine.mu held.
func (a *attempt) snapshot() Status {
	s := Status{
		ID: a.spec.ID, State: a.state, Request: a.spec.Request, TimeLimit: a.spec.TimeLimit,
		ExitCode: a.code, OOMKills: a.oomKills, Fault: a.fault, HostFault: a.hostFault, Stuck: a.stuck, Elapsed: dspool.Duration(a.elapsed),
	}
	if !a.wall.IsZero() {
		wall := a.wall
		s.Started = &wall
		if lived := time.Since(a.begun); a.exited || a.state == Ended {
			s.Over = dspool.Duration(lived - a.elapsed)
		} else {
			s.Elapsed = dspool.Duration(lived)
		}
	}
	if a.exited && a.status.Signaled() {
		s.Signal = int(a.status.Signal())
	}
	if a.killed != nil {
		s.Cause, s.Reason = a.killed.Cause, a.killed.Reason
	}
	return s
}
