package servertest_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/server"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/store"
)

// busy is a system with a task and a session that run, each where it may be, and the machines of both.
func busy(t *testing.T) (s *servertest.System, job dspool.Job, machines map[string]bool) {
	t.Helper()
	s = servertest.New(t, servertest.Options{})
	job = s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	machines = map[string]bool{s.Running(job.ID, 1)[0].Machine: true}
	logIn(t, s, "bob", "conn-bob")
	list, err := s.Sessions(t.Context(), client.SessionFilter{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	machines[list.Items[0].Machine] = true
	return s, job, machines
}

// listed returns when the provider has been asked for its machines after now, and its answer was looked at.
func listed(s *servertest.System) {
	for range 2 {
		gate := s.Steps.Hold(servertest.List)
		s.MustReach(gate)
		gate.Open()
	}
}

// mustHaveEnded wants everything to have ended within a time.
func mustHaveEnded(t *testing.T, s *servertest.System, job dspool.Job, from, to time.Time) {
	t.Helper()
	within := func(what string, at *dspool.Time) {
		t.Helper()
		if at == nil || at.Before(from) || at.After(to) {
			t.Errorf("%s ended at %v, not between %s and %s", what, at, from.UTC(), to.UTC())
		}
	}
	if job = s.MustEnd(job.ID); job.Tasks.Lost != 1 {
		t.Errorf("the job ended %+v", job.Tasks)
	}
	s.AtRest()
	task, err := s.Task(t.Context(), job.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	within("the task", task.Ended)
	all, err := s.Machines(t.Context(), "", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all.Items {
		within("machine "+m.Name, m.Ended)
	}
	sessions, err := s.Sessions(t.Context(), client.SessionFilter{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, session := range sessions.Items {
		if session.Machine != "" {
			within("the session", session.Ended)
		}
	}
}

func TestWhatVanishesEndsWhenItWasLastSeen(t *testing.T) {
	t.Parallel()
	for how, end := range ends {
		t.Run("while no server runs, it having been "+how, func(t *testing.T) {
			t.Parallel()
			s, job, machines := busy(t)
			from := time.Now()
			if how == "stopped" {
				listed(s)
			} else { // what it last wrote down is some seconds old
				from = time.Now().Add(-servertest.Patience)
			}
			end(s)
			for name := range machines {
				s.Provider.Kill(name)
			}
			to := time.Now()
			s.Start()
			mustHaveEnded(t, s, job, from, to)
		})
	}
	t.Run("also where the next server does not get far", func(t *testing.T) {
		t.Parallel()
		s, job, machines := busy(t)
		from := time.Now()
		listed(s)
		s.Stop()
		for name := range machines {
			s.Provider.Kill(name)
		}
		to := time.Now()
		gate := s.Steps.Hold(servertest.List)
		s.Start()
		s.MustReach(gate)
		s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}) // it writes all the same
		s.Kill()
		gate.Open()
		s.Start()
		if job = s.MustEnd(job.ID); job.Tasks.Lost != 1 {
			t.Errorf("the job ended %+v", job.Tasks)
		}
		task, err := s.Task(t.Context(), job.ID, 0)
		if err != nil || task.Ended == nil || task.Ended.Before(from) || task.Ended.After(to) {
			t.Errorf("the task ended at %v, not between %s and %s: %v", task.Ended, from.UTC(), to.UTC(), err)
		}
	})
	t.Run("while a server runs that takes long to remove what is left", func(t *testing.T) {
		t.Parallel()
		s, job, machines := busy(t)
		from := time.Now()
		listed(s)
		gate := s.Steps.Hold(servertest.Destroy)
		for name := range machines {
			s.Provider.Kill(name)
		}
		s.MustReach(gate)
		to := time.Now()
		gate.Open()
		mustHaveEnded(t, s, job, from, to)
	})
}

// Machines that `dspool uninstall` removes end with it; those that it finds gone ended before.
func TestUninstallWritesDownWhatEnds(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, Array: "0-1", CPUs: 1})
	tasks := s.Running(job.ID, 2)
	if tasks[0].Machine == tasks[1].Machine {
		t.Fatal("both run on one machine")
	}
	listed(s)
	s.Stop()
	stopped := time.Now()
	s.Provider.Kill(tasks[1].Machine)
	st, err := store.Open(t.Context(), filepath.Join(s.Dir, server.StoreFile))
	if err != nil {
		t.Fatal(err)
	}
	err = control.Uninstalled(t.Context(), st, func(machine string) bool { return machine == tasks[0].Machine })
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	uninstalled := time.Now()
	for _, task := range tasks {
		if err := s.Provider.Destroy(t.Context(), task.Machine); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
	if job = s.MustEnd(job.ID); job.Tasks.Lost != 2 {
		t.Errorf("the job ended %+v", job.Tasks)
	}
	for i, of := range []struct{ from, to time.Time }{{stopped, uninstalled}, {*tasks[1].Started, stopped}} {
		task, err := s.Task(t.Context(), job.ID, int64(i))
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Machine(t.Context(), tasks[i].Machine)
		if err != nil {
			t.Fatal(err)
		}
		for what, at := range map[string]*dspool.Time{"task": task.Ended, "machine": m.Ended} {
			if at == nil || at.Before(of.from) || at.After(of.to) {
				t.Errorf("%s %d ended at %v, not between %s and %s", what, i, at, of.from.UTC(), of.to.UTC())
			}
		}
		if m.State != dspool.Gone || !m.Reason.Is(dspool.WhyUninstalled) {
			t.Errorf("machine %s is %s: %s", m.Name, m.State, m.Reason)
		}
	}
	s.AtRest()
}
