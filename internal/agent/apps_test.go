package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/testkit"
)

func withApps(d api.SessionDirective, apps ...api.AppDirective) api.SessionDirective {
	d.Apps = apps
	return d
}

// app waits until the last report on an app that names it is as ok says.
func (s *server) app(session, id int64, what string, ok func(api.AppReport) bool) (r api.AppReport) {
	s.t.Helper()
	s.session(session, what, func(x api.SessionReport) bool {
		i := slices.IndexFunc(x.Apps, func(a api.AppReport) bool { return a.ID == id })
		if i >= 0 {
			r = x.Apps[i]
		}
		return i >= 0 && ok(r)
	})
	return r
}

// appEnded waits until an end of an app was reported, also when it is forgotten by now.
func (s *server) appEnded(id int64) (r api.AppReport) {
	s.t.Helper()
	s.await("end of an app", func() bool {
		ends := s.appEnds(id)
		if len(ends) > 0 {
			r = ends[0]
		}
		return len(ends) > 0
	})
	return r
}

// appEnds is called with mu held.
func (s *server) appEnds(id int64) (ends []api.AppReport) {
	for _, r := range s.reports {
		for _, x := range r.Sessions {
			for _, a := range x.Apps {
				if a.ID == id && a.State == dspool.AppEnded {
					ends = append(ends, a)
				}
			}
		}
	}
	return ends
}

func started(m *agenttest.Machine) (ids []int64) {
	for _, a := range m.StartedApps() {
		ids = append(ids, a.ID)
	}
	return ids
}

func appForgotten(t testing.TB, m *agenttest.Machine, id int64) {
	t.Helper()
	late := time.After(waitLimit)
	for {
		moved := m.Changed()
		list, _, err := m.Apps(t.Context(), 0, 0)
		must(t, err)
		if !slices.ContainsFunc(list, func(a host.App) bool { return a.ID == id }) {
			return
		}
		select {
		case <-moved:
		case <-late:
			t.Fatalf("app %d is not forgotten", id)
		}
	}
}

func running(r api.AppReport) bool { return r.State == dspool.AppRunning }

func TestLifeOfApp(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	m.RunApps(func(api.AppDirective) api.AppReport { return api.AppReport{State: dspool.AppStarting} })
	s.agent(withSessions(s, m, t.TempDir()))
	jupyter := api.AppDirective{ID: 7, Name: "jupyter", Command: []string{"jupyterhub-singleuser", "--port={port}"}}
	d := directive(1, "alice", 20001)
	s.seat(withApps(d, jupyter))
	s.app(1, 7, "starting", func(r api.AppReport) bool { return r.State == dspool.AppStarting })
	m.SetApp(api.AppReport{ID: 7, State: dspool.AppRunning, Port: 41234})
	if r := s.app(1, 7, "running", running); r.Port != 41234 {
		t.Errorf("%+v", r)
	}
	t.Run("one that is not named is ended, and settled", func(t *testing.T) {
		hub := api.AppDirective{ID: 8, Name: "hub", Restart: true}
		s.seat(withApps(d, hub))
		if r := s.appEnded(7); testkit.Text(r.Reason) != "it was stopped" || r.ExitCode == nil {
			t.Errorf("%+v", r)
		}
		appForgotten(t, m, 7)
		// An old answer names it once more.
		s.seat(withApps(d, jupyter, hub, api.AppDirective{ID: 9, Name: "last"}))
		s.app(1, 9, "there", func(api.AppReport) bool { return true })
		if got := started(m); !slices.Equal(got, []int64{8, 9}) {
			t.Errorf("started are %v", got)
		}
	})
	t.Run("one that was stopped before it was begun is reported ended, and never begins", func(t *testing.T) {
		s.seat(withApps(d, api.AppDirective{ID: 8, Name: "hub"}, api.AppDirective{ID: 9, Name: "last"}, api.AppDirective{ID: 10, Name: "late", Stop: true}))
		if r := s.appEnded(10); testkit.Text(r.Reason) != "it was stopped" {
			t.Errorf("%+v", r)
		}
		if got := started(m); !slices.Equal(got, []int64{8, 9}) {
			t.Errorf("started are %v", got)
		}
	})
	t.Run("one that runs is stopped by that, too", func(t *testing.T) {
		s.seat(withApps(d, api.AppDirective{ID: 8, Name: "hub"}, api.AppDirective{ID: 9, Stop: true}))
		if r := s.appEnded(9); r.ExitCode == nil {
			t.Errorf("%+v", r)
		}
	})
	t.Run("the end of the session is theirs", func(t *testing.T) {
		s.seat(closing(d))
		r := s.closed(1)
		if len(r.Apps) != 1 || r.Apps[0].ID != 8 || r.Apps[0].State != dspool.AppEnded || testkit.Text(r.Apps[0].Reason) != "its session ended: idle for an hour" {
			t.Errorf("%+v", r.Apps)
		}
	})
}

func TestEndOfAppIsReportedUntilTheServerHasIt(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	cfg := withSessions(s, m, t.TempDir())
	first := s.agent(cfg)
	s.seat(withApps(directive(1, "alice", 20001), api.AppDirective{ID: 7, Name: "jupyter"}))
	s.app(1, 7, "running", running)
	first.kill()
	// It ends while no agent is there to see it.
	code := 3
	m.SetApp(api.AppReport{ID: 7, State: dspool.AppEnded, ExitCode: &code, Reason: testkit.Stated("exit code 3: no such luck")})
	s.agent(cfg)
	if r := s.appEnded(7); *r.ExitCode != 3 || testkit.Text(r.Reason) != "exit code 3: no such luck" {
		t.Errorf("%+v", r)
	}
	appForgotten(t, m, 7)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.appEnds(7)); n != 1 {
		t.Errorf("its end was reported %d times", n)
	}
}

func TestAppsOutliveAgents(t *testing.T) {
	t.Parallel()
	s, m := newServer(t), agenttest.NewMachine(nil)
	cfg := withSessions(s, m, t.TempDir())
	first := s.agent(cfg)
	s.seat(withApps(directive(1, "alice", 20001), api.AppDirective{ID: 7, Name: "jupyter"}))
	s.app(1, 7, "running", running)
	first.kill()
	s.mu.Lock()
	s.reports = nil
	s.mu.Unlock()
	s.agent(cfg)
	s.await("a first report", func() bool { return len(s.reports) > 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	// No report of a session that is adopted lacks its apps: the server would think them lost.
	if got := s.reports[0].Sessions; len(got) != 1 || len(got[0].Apps) != 1 || got[0].Apps[0].Port != 40007 || got[0].Apps[0].State != dspool.AppRunning {
		t.Errorf("%+v", got)
	}
}
