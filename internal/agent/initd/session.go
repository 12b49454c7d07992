package initd

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Session is a user's place on a machine beside attempts: an account, and a cgroup that logins join.
type Session struct {
	ID int64 `json:"id"`
	api.Account
	Request dspool.Resources `json:"request"`
}

// SessionStatus is what init knows about a session.
type SessionStatus struct {
	Session
	Closing  bool     `json:"closing,omitempty"`
	Join     []string `json:"join"`                // files to which a login writes its process id
	Aid      Aid      `json:"aid"`                 // where it goes instead when the session's memory is full
	PIDs     []int    `json:"pids,omitempty"`      // of everything in it
	OOMKills int64    `json:"oom_kills,omitempty"` // processes that the kernel killed for memory, ever
}

// Closing asks for the end of everything in a session: SIGTERM and SIGHUP, and SIGKILL after Grace.
type Closing struct {
	ID    int64         `json:"id"`
	Grace time.Duration `json:"grace"`
}

// session is a row of init's table. spec, closing and opened are guarded by machine.mu.
type session struct {
	spec    Session
	opened  bool
	closing bool
	over    chan struct{} // closed when it has gone from the table

	tidied <-chan struct{} // closed when what the user left before is gone; nil if nothing was
	making sync.Mutex      // held while it is made or brought up to date
	slot   *aidSlot        // set once, under making
}

func (s *Session) check() error {
	switch {
	case s.UID < MinUID || s.GID < MinUID:
		return dspool.Errorf(dspool.Forbidden, "user id %d, group id %d: nobody works with an id below %d", s.UID, s.GID, MinUID)
	case s.Request.CPUs <= 0 || s.Request.Memory <= 0:
		return dspool.Errorf(dspool.Invalid, "the session asks for %s", s.Request)
	}
	return nil
}

// openSession makes a session, or brings it up to date.
func (m *machine) openSession(want Session) (SessionStatus, error) {
	if err := want.check(); err != nil {
		return SessionStatus{}, err
	}
	s, err := m.sessionFor(want)
	if err != nil {
		return SessionStatus{}, err
	}
	if s.tidied != nil {
		<-s.tidied
	}
	s.making.Lock()
	defer s.making.Unlock()
	if err := m.makeSession(s, want); err != nil {
		m.mu.Lock()
		if !s.opened {
			m.endSession(s, 0)
		}
		m.mu.Unlock()
		return SessionStatus{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.spec, s.opened = want, true
	return SessionStatus{Session: want, Closing: s.closing, Join: s.slot.join(), Aid: s.slot.status(s.spec.Request.Memory)}, nil
}

// sessionFor returns the row of a session, new or known.
func (m *machine) sessionFor(want Session) (*session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping {
		return nil, dspool.Errorf(dspool.Unavailable, "the machine is shutting down")
	}
	if s := m.sessions[want.ID]; s != nil {
		switch {
		case s.closing:
			return nil, dspool.Errorf(dspool.Conflict, "session %d is being closed", want.ID)
		case s.spec.User != want.User || s.spec.UID != want.UID:
			return nil, dspool.Errorf(dspool.Conflict, "session %d belongs to %s", want.ID, s.spec.User)
		}
		return s, nil
	}
	for _, s := range m.sessions {
		if s.spec.UID == want.UID {
			return nil, dspool.Errorf(dspool.Conflict, "%s still has session %d on the machine", want.User, s.spec.ID)
		}
	}
	s := &session{spec: want, over: make(chan struct{}), tidied: m.tenants.come(want.UID)}
	m.sessions[want.ID] = s
	return s, nil
}

func (m *machine) makeSession(s *session, want Session) error {
	if err := m.accounts.ensure(want.Account); err != nil {
		return err
	}
	if err := m.accounts.join(want.User, want.Groups); err != nil {
		return err
	}
	if s.slot == nil {
		slot, err := newAidSlot(m.slots.h, fmt.Sprintf("%suser-%d-%d", slotPrefix, want.UID, want.ID))
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		s.slot = slot
	}
	// Shares of the cpu, no quota: what nobody else uses is free to take.
	if err := s.slot.limit(limits{cpus: want.Request.CPUs, memory: want.Request.Memory, pids: m.cfg.MaxProcesses}); err != nil {
		return fmt.Errorf("limit the session: %w", err)
	}
	return nil
}

// closeSession returns a channel that is closed when nothing of the session is left.
func (m *machine) closeSession(c Closing) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[c.ID]
	if s == nil {
		over := make(chan struct{})
		close(over)
		return over
	}
	m.endSession(s, c.Grace)
	return s.over
}

// endSession ends s in a goroutine of its own, unless that is under way; machine.mu is held.
func (m *machine) endSession(s *session, grace time.Duration) {
	if s.closing {
		return
	}
	s.closing = true
	apps := m.appsOf(s)
	for _, a := range apps {
		a.stop(dspool.Reason{Code: dspool.WhySessionEnded}, grace)
	}
	go func() {
		s.making.Lock()
		defer s.making.Unlock()
		if s.slot != nil {
			m.clearSession(s, apps, grace)
		}
		if m.tenants.leave(s.spec.UID) {
			m.tidy(s.spec.UID)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, a := range apps {
			delete(m.apps, a.spec.ID)
		}
		m.appsMoved()
		delete(m.sessions, s.spec.ID)
		close(s.over)
	}()
}

// clearSession ends what is in s and removes its cgroup. A login that was under way may still
// enter it, so that this is tried until the cgroup has gone.
func (m *machine) clearSession(s *session, apps []*app, grace time.Duration) {
	if grace > 0 {
		pids, err := s.slot.pids()
		if err != nil {
			m.log.Error("the processes of a session cannot be listed", "session", s.spec.ID, "error", err)
		}
		// Interactive shells ignore SIGTERM, and tell their children of SIGHUP.
		signalAll(pids, unix.SIGTERM, unix.SIGHUP, unix.SIGCONT)
		awaitEmpty(s.slot, grace)
	}
	if len(apps) > 0 && m.empty(s.slot, "session", s.spec.ID) == 0 {
		late := time.After(stuckAfter)
		for _, a := range apps {
			select {
			case <-a.over:
			case <-late:
				m.log.Error("an app does not end with its session", "app", a.spec.ID, "session", s.spec.ID)
				return // it may still enter the cgroup
			}
		}
	}
	const first, most = time.Millisecond, 50 * time.Millisecond
	end := time.Now().Add(stuckAfter)
	for pause := first; ; pause = min(most, 2*pause) {
		if m.empty(s.slot, "session", s.spec.ID) > 0 {
			return // the cgroup stays with what is stuck in it
		}
		// What is in the middle of its end is not listed, and still keeps the cgroup.
		err := s.slot.remove()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			m.log.Error("the cgroup of a session is left behind", "session", s.spec.ID, "error", err)
			return
		}
		time.Sleep(pause)
	}
}

func (m *machine) listSessions() []SessionStatus {
	m.mu.Lock()
	list, slots := make([]SessionStatus, 0, len(m.sessions)), map[int64]slot{}
	for id, s := range m.sessions {
		if s.opened {
			list = append(list, SessionStatus{Session: s.spec, Closing: s.closing, Join: s.slot.join(), Aid: s.slot.status(s.spec.Request.Memory)})
			slots[id] = s.slot
		}
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b SessionStatus) int { return cmp.Compare(a.ID, b.ID) })
	for i := range list {
		// One that ends meanwhile has no files any more.
		if pids, err := slots[list[i].ID].pids(); err == nil {
			list[i].PIDs = pids
		}
		if n, err := slots[list[i].ID].oomKills(); err == nil {
			list[i].OOMKills = n
		}
	}
	return list
}
