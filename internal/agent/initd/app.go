package initd

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// App is a program that runs as a user in the user's session, until it ends or is not wanted any
// more. Its output goes to ~/.local/state/dspool/NAME.log as far as that can be written.
type App struct {
	ID      int64             `json:"id"`
	Name    string            `json:"name"`
	Command []string          `json:"command"`       // each {port} is a free port, chosen at every start
	Env     map[string]string `json:"env,omitempty"` // with {port} likewise
	Dir     string            `json:"dir,omitempty"` // below the home, where it starts; the home unless set
	Restart bool              `json:"restart,omitempty"`
	// Kernels and Token are kept for a later agent.
	Kernels string `json:"kernels,omitempty"`
	Token   string `json:"token,omitempty"`
}

// Apps is the wish for all apps of a session: those that are not named are ended. An app is known by
// its identifier, and nothing of it changes but that. One waits until earlier ones of its name have ended.
type Apps struct {
	Session int64         `json:"session"`
	Apps    []App         `json:"apps,omitempty"`
	Grace   time.Duration `json:"grace"` // between SIGTERM and SIGKILL for those that are ended
}

// AppEnd asks for the end of one run of an app, for Reason. One with Restart is started again.
type AppEnd struct {
	ID     int64         `json:"id"`
	Run    int           `json:"run"` // nothing is done when another one runs
	Reason dspool.Reason `json:"reason"`
	Grace  time.Duration `json:"grace"`
}

// AppStatus is what init knows about an app.
type AppStatus struct {
	ID      int64  `json:"id"`
	Session int64  `json:"session"`
	Name    string `json:"name"`
	UID     int    `json:"uid"`
	GID     int    `json:"gid"`
	Memory  int64  `json:"memory"` // limit of its session, in bytes
	Restart bool   `json:"restart,omitempty"`
	Kernels string `json:"kernels,omitempty"`
	Token   string `json:"token,omitempty"`

	State State           `json:"state"`          // starting: before its first run, and between runs
	Run   int             `json:"run,omitempty"`  // its runs are numbered from 1
	PID   int             `json:"pid,omitempty"`  // of its main process while running
	Port  int             `json:"port,omitempty"` // given to it while running
	Age   dspool.Duration `json:"age,omitempty"`  // of the run, by a clock that nobody sets
	PIDs  []int           `json:"pids,omitempty"` // of its whole tree

	// How the last run ended; all empty before the first end.
	ExitCode *int          `json:"exit_code,omitempty"`
	Signal   int           `json:"signal,omitempty"` // that ended the main process; ExitCode is 128 more
	OOM      bool          `json:"oom,omitempty"`    // the kernel killed something in its session for memory then
	Fault    dspool.Reason `json:"fault,omitzero"`   // why it could not start
	Reason   dspool.Reason `json:"reason,omitzero"`  // of AppEnd, or that it was not wanted any more
	Said     string        `json:"said,omitempty"`   // last words, at most 2 KiB, without secrets of its environment
	Stuck    int           `json:"stuck,omitempty"`  // processes of it that the kernel did not end
}

// app is a row of init's table. Its fields but the channels are guarded by machine.mu.
type app struct {
	spec    App
	session *session
	status  AppStatus     // but Age and PIDs
	begun   time.Time     // of the run
	part    slot          // of the run
	ends    bool          // it is to end for good
	endRun  int           // the run that is to end
	why     dspool.Reason // of the end that was asked for
	grace   time.Duration
	oom     oomWatch

	kick chan struct{} // ends or endRun has changed
	over chan struct{} // closed when it has ended for good
}

// stop ends an app for good, in its own goroutine; machine.mu is held.
func (a *app) stop(reason dspool.Reason, grace time.Duration) {
	if a.ends || a.status.State == Ended {
		return
	}
	a.ends, a.why, a.grace = true, reason, grace
	a.wake()
}

func (a *app) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// wantApps makes the apps of a session those of w.
func (m *machine) wantApps(w Apps) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[w.Session]
	switch {
	case m.stopping:
		return dspool.Errorf(dspool.Unavailable, "the machine is shutting down")
	case s == nil || !s.opened:
		return dspool.Errorf(dspool.NotFound, "session %d is not open on the machine", w.Session)
	case s.closing:
		return dspool.Errorf(dspool.Conflict, "session %d is being closed", w.Session)
	}
	wanted := map[int64]bool{}
	for _, spec := range w.Apps {
		wanted[spec.ID] = true
		if a := m.apps[spec.ID]; a != nil && a.session != s {
			return dspool.Errorf(dspool.Conflict, "app %d belongs to another session", spec.ID)
		}
	}
	for _, a := range m.apps {
		if a.session == s && !wanted[a.spec.ID] {
			a.stop(dspool.Reason{Code: dspool.WhyAppUnwanted}, w.Grace)
		}
	}
	for _, spec := range w.Apps {
		if m.apps[spec.ID] == nil {
			m.addApp(s, spec)
		}
	}
	return nil
}

// addApp is called with machine.mu held.
func (m *machine) addApp(s *session, spec App) {
	a := &app{
		spec: spec, session: s, kick: make(chan struct{}, 1), over: make(chan struct{}),
		status: AppStatus{
			ID: spec.ID, Session: s.spec.ID, Name: spec.Name, UID: s.spec.UID, GID: s.spec.GID,
			Restart: spec.Restart, Kernels: spec.Kernels, Token: spec.Token, State: Starting,
		},
	}
	var before []<-chan struct{}
	for _, b := range m.apps {
		if b.session == s && b.spec.Name == spec.Name {
			before = append(before, b.over)
		}
	}
	m.apps[spec.ID] = a
	m.appsMoved()
	go func() {
		for _, over := range before {
			<-over
		}
		m.keepApp(a)
	}()
}

// appsOf returns the apps of a session; machine.mu is held.
func (m *machine) appsOf(s *session) (list []*app) {
	for _, a := range m.apps {
		if a.session == s {
			list = append(list, a)
		}
	}
	return list
}

// endAppRun ends one run of an app.
func (m *machine) endAppRun(e AppEnd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.apps[e.ID]
	if a == nil || a.ends || a.status.Run != e.Run || a.endRun == e.Run || a.status.State != Running {
		return
	}
	a.endRun, a.why, a.grace = e.Run, e.Reason, e.Grace
	a.wake()
}

// forgetApps drops what has ended; what lives stays, whatever is asked.
func (m *machine) forgetApps(ids []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if a := m.apps[id]; a != nil && a.status.State == Ended {
			delete(m.apps, id)
		}
	}
}

// appsMoved tells whoever waits that something of an app has changed; machine.mu is held.
func (m *machine) appsMoved() {
	m.appVersion++
	close(m.appChange)
	m.appChange = make(chan struct{})
}

// awaitApps returns all apps that are not forgotten, and the version of that list, once that is not
// seen any more, or after wait.
func (m *machine) awaitApps(seen int64, wait time.Duration) ([]AppStatus, int64) {
	timer := time.NewTimer(min(wait, mostAppWait))
	defer timer.Stop()
	for late := wait <= 0; ; {
		m.mu.Lock()
		if late || m.appVersion != seen {
			defer m.mu.Unlock()
			return m.appList(), m.appVersion
		}
		change := m.appChange
		m.mu.Unlock()
		select {
		case <-change:
		case <-timer.C:
			late = true
		case <-m.ended:
			late = true
		}
	}
}

// mostAppWait bounds how long one who went away is waited for.
const mostAppWait = time.Minute

// appList is called with machine.mu held.
func (m *machine) appList() []AppStatus {
	list := make([]AppStatus, 0, len(m.apps))
	for _, a := range m.apps {
		s := a.status
		s.Memory = a.session.spec.Request.Memory
		if s.State == Running {
			s.Age = dspool.Duration(time.Since(a.begun))
			if pids, err := a.part.pids(); err == nil {
				s.PIDs = pids
			}
			if n, err := a.part.oomKills(); err == nil {
				a.oom.look(n, time.Now())
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b AppStatus) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// oomWatch tells kills for memory of now from those of long ago: the session of an app has one
// count for all that is in it.
type oomWatch struct {
	old, last int64
	at        time.Time // of last
}

// oomFresh is how long a kill counts as the reason of an end.
const oomFresh = 10 * time.Second

func (o *oomWatch) begin(n int64, now time.Time) { *o = oomWatch{n, n, now} }

func (o *oomWatch) look(n int64, now time.Time) {
	if now.Sub(o.at) > oomFresh {
		o.old, o.last, o.at = o.last, n, now
	}
}

// fresh says whether there was a kill lately when the count is n.
func (o *oomWatch) fresh(n int64) bool { return n > o.old }

// check refuses what cannot be started or would be a path elsewhere.
func (s *App) check() error {
	if err := dspool.CheckName("app", s.Name); err != nil {
		return err
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		return dspool.Errorf(dspool.Invalid, "app %s has no command", s.Name)
	}
	for _, arg := range s.Command {
		if strings.ContainsRune(arg, 0) {
			return dspool.Errorf(dspool.Invalid, "the command of app %s holds a NUL byte", s.Name)
		}
	}
	for k, v := range s.Env {
		// Neither is shown: values are secret, and a key may be a mistaken value.
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return dspool.Errorf(dspool.Invalid, "the environment of app %s holds an entry that a process cannot have", s.Name)
		}
	}
	return nil
}
