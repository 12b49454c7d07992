package servertest

import (
	"context"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

// Patience is how long a condition of a test may take before the test fails.
const Patience = 20 * time.Second

// MustSubmit submits a job as the default user.
func (s *System) MustSubmit(spec dspool.JobSpec) dspool.Job {
	s.t.Helper()
	job, err := s.Submit(s.t.Context(), api.SubmitRequest{JobSpec: spec})
	if err != nil {
		s.t.Fatal(err)
	}
	return job
}

// MustEnd waits until a job has ended.
func (s *System) MustEnd(id int64) dspool.Job {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), Patience)
	defer cancel()
	job, err := s.WaitJob(ctx, id, nil)
	if err != nil {
		s.t.Fatalf("job %d has not ended: %v; it is %+v", id, err, job)
	}
	return job
}

// MustReach waits until somebody stands at a held step, and returns the machine it is about.
func (s *System) MustReach(g *Gate) string {
	s.t.Helper()
	late := time.NewTimer(Patience)
	defer late.Stop()
	select {
	case name := <-g.Reached:
		return name
	case <-late.C:
		s.t.Fatalf("waited %s for step %s", Patience, g.Step)
		return ""
	}
}

// Running waits until n tasks of a job run, and returns them.
func (s *System) Running(job int64, n int) []dspool.Task {
	s.t.Helper()
	return s.tasks(job, n, dspool.TaskRunning)
}

func (s *System) tasks(job int64, n int, state dspool.TaskState) (tasks []dspool.Task) {
	s.t.Helper()
	s.Until("tasks are "+string(state), func() bool {
		list, err := s.Server.Control.Tasks(s.t.Context(), root, job, control.TaskQuery{State: state, After: -1})
		tasks = list.Items
		return err == nil && len(tasks) == n
	})
	return tasks
}

// Until waits for a condition; what says what was waited for. Every change of the system is an
// event, so the condition is looked at after each.
func (s *System) Until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(Patience)
	for {
		changed := s.Server.Control.Changed(control.TopicEvents)
		if ok() {
			return
		}
		look := time.NewTimer(20 * time.Millisecond) // some conditions lie outside the store
		select {
		case <-changed:
		case <-look.C:
		case <-deadline:
			s.t.Fatalf("waited %s for: %s", Patience, what)
		}
		look.Stop()
	}
}

// EventsOf returns all events of a kind.
func (s *System) EventsOf(kind string) (found []dspool.Event) {
	s.t.Helper()
	list, err := s.Server.Control.Events(s.t.Context(), root, control.EventQuery{Limit: 10_000})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// Moment lets the system go on until something happens in it, for a hundredth of a second at most.
func (s *System) Moment() {
	changed := s.Server.Control.Changed(control.TopicEvents)
	short := time.NewTimer(10 * time.Millisecond)
	defer short.Stop()
	select {
	case <-changed:
	case <-short.C:
	}
}
