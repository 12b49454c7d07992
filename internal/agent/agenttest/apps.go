package agenttest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
)

// fakeApp is an app of a Machine's session. It runs nothing.
type fakeApp struct {
	directive api.AppDirective
	session   int64
	report    api.AppReport
}

// RunApps says how apps stand as soon as they are started; nil is that each runs, on port 40000 +
// its identifier. What f leaves empty is that. f must not call m.
func (m *Machine) RunApps(f func(api.AppDirective) api.AppReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places.script = f
}

// SetApp says how an app that was started stands from now on.
func (m *Machine) SetApp(r api.AppReport) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.places.apps[r.ID]; a != nil {
		a.report = r
		m.appsMoved()
	}
}

// StartedApps returns the directives of the apps that were started and have not ended, by identifier.
func (m *Machine) StartedApps() []api.AppDirective {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []api.AppDirective{}
	for _, a := range m.places.apps {
		if a.report.State != dspool.AppEnded {
			list = append(list, a.directive)
		}
	}
	slices.SortFunc(list, func(a, b api.AppDirective) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// appsMoved is called with mu held.
func (m *Machine) appsMoved() {
	m.places.version++
	m.signal()
}

// wantApps makes the apps of a session those of d; mu is held.
func (m *Machine) wantApps(d api.SessionDirective) {
	wanted := map[int64]bool{}
	for _, a := range d.Apps {
		wanted[a.ID] = true
		if m.places.apps[a.ID] != nil {
			continue
		}
		f := &fakeApp{directive: a, session: d.ID}
		if m.places.script != nil {
			f.report = m.places.script(a)
		}
		f.report.ID = a.ID
		if f.report.State == "" {
			f.report.State = dspool.AppRunning
		}
		if f.report.State == dspool.AppRunning && f.report.Port == 0 {
			f.report.Port = 40000 + int(a.ID%20000)
		}
		m.places.apps[a.ID] = f
	}
	for id, a := range m.places.apps {
		if a.session == d.ID && !wanted[id] && a.report.State != dspool.AppEnded {
			a.report = api.AppReport{ID: id, State: dspool.AppEnded, ExitCode: new(int), Reason: dspool.Reason{Code: dspool.WhyAppUnwanted}}
		}
	}
	m.appsMoved()
}

// dropApps forgets the apps of a session that was closed; mu is held.
func (m *Machine) dropApps(session int64) {
	for id, a := range m.places.apps {
		if a.session == session {
			delete(m.places.apps, id)
		}
	}
	m.appsMoved()
}

// Apps implements agent.Host.
func (m *Machine) Apps(ctx context.Context, seen int64, wait time.Duration) ([]host.App, int64, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for late := wait <= 0; ; {
		m.mu.Lock()
		err := errors.Join(m.broken, ctx.Err())
		if err != nil || late || m.places.version != seen {
			var list []host.App
			for _, a := range m.places.apps {
				list = append(list, host.App{Session: a.session, AppReport: a.report})
			}
			slices.SortFunc(list, func(a, b host.App) int { return cmp.Compare(a.ID, b.ID) })
			version := m.places.version
			m.mu.Unlock()
			if err != nil {
				return nil, 0, errors.Join(host.ErrAway, err)
			}
			return list, version, nil
		}
		moved := m.moved
		m.mu.Unlock()
		select {
		case <-moved:
		case <-timer.C:
			late = true
		case <-ctx.Done():
		}
	}
}

// ForgetApps implements agent.Host.
func (m *Machine) ForgetApps(ctx context.Context, ids []int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.broken, ctx.Err()); err != nil {
		return errors.Join(host.ErrAway, err)
	}
	for _, id := range ids {
		if a := m.places.apps[id]; a != nil && a.report.State == dspool.AppEnded {
			delete(m.places.apps, id)
		}
	}
	m.appsMoved()
	return nil
}
