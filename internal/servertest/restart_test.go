package servertest_test

import (
	"errors"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/servertest"
)

// ends are the ways in which a server may go away.
var ends = map[string]func(*servertest.System){
	"killed":  (*servertest.System).Kill,
	"stopped": (*servertest.System).Stop,
}

func TestServerGoesAwayAtEveryStep(t *testing.T) {
	t.Parallel()
	one := dspool.JobSpec{Command: []string{"true"}}
	forever := dspool.JobSpec{Command: []string{"forever"}}
	for how, end := range ends {
		// heldAt ends the server while somebody stands at a step, and starts the next one.
		heldAt := func(t *testing.T, step servertest.Step, spec dspool.JobSpec) (*servertest.System, dspool.Job) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			gate := s.Steps.Hold(step)
			job := s.MustSubmit(spec)
			s.MustReach(gate)
			end(s)
			gate.Open()
			s.Start()
			return s, job
		}
		succeeds := func(t *testing.T, s *servertest.System, job dspool.Job) {
			t.Helper()
			if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded {
				t.Errorf("job ended %s: %s", job.State, job.Reason)
			}
			s.AtRest()
		}
		for _, step := range []servertest.Step{servertest.Create, servertest.Created, servertest.Enrol, servertest.List, servertest.Destroy, servertest.Destroyed} {
			t.Run(how+" at "+string(step)+", it loses no job and leaks no machine", func(t *testing.T) {
				s, job := heldAt(t, step, one)
				succeeds(t, s, job)
				if n := s.Steps.Peak("batch"); n != 1 {
					t.Errorf("the pool had %d machines at once", n)
				}
			})
		}
		t.Run(how+" after a task is placed, the task runs once", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			first := s.MustSubmit(forever)
			running := s.Running(first.ID, 1)[0]
			gate := s.Steps.Hold(servertest.Enrol)
			s.KillAgent(running.Machine)
			s.MustReach(gate)
			second := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, CPUs: 0.1, Memory: 64 << 20})
			s.Inside(running.Machine).End(running.Attempt, 0)
			end(s)
			s.Start()
			gate.Open()
			if job := s.MustEnd(first.ID); job.State != dspool.JobSucceeded {
				t.Errorf("the first job ended %s: %s", job.State, job.Reason)
			}
			succeeds(t, s, second)
		})
		t.Run(how+" while a task runs, the task goes on and is reported", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			job := s.MustSubmit(forever)
			running := s.Running(job.ID, 1)[0]
			end(s)
			s.Start()
			s.Inside(running.Machine).End(running.Attempt, 0)
			succeeds(t, s, job)
		})
		t.Run(how+" while a task ends, its end is reported to the next server", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			job := s.MustSubmit(forever)
			running := s.Running(job.ID, 1)[0]
			end(s)
			s.Inside(running.Machine).End(running.Attempt, 3)
			s.Start()
			if job = s.MustEnd(job.ID); job.State != dspool.JobFailed || job.Reason.Text != "exit code 3" {
				t.Errorf("job ended %s: %s", job.State, job.Reason)
			}
			s.AtRest()
		})
		t.Run(how+" while its machine dies, the task is lost and says so", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			job := s.MustSubmit(forever)
			running := s.Running(job.ID, 1)[0]
			end(s)
			s.Provider.Kill(running.Machine)
			s.Start()
			if job = s.MustEnd(job.ID); job.State != dspool.JobFailed || job.Tasks.Lost != 1 || job.Reason.Text == "" {
				t.Errorf("job ended %s with %+v: %q", job.State, job.Tasks, job.Reason)
			}
			s.AtRest()
		})
		t.Run(how+" while a job is cancelled, the job ends cancelled", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			job := s.MustSubmit(dspool.JobSpec{Command: []string{"stubborn"}, Array: "1-3"})
			s.Running(job.ID, 3)
			if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
				t.Fatal(err)
			}
			end(s)
			s.Start()
			if job = s.MustEnd(job.ID); job.State != dspool.JobCancelled || job.Tasks.Cancelled != 3 {
				t.Errorf("job ended %s with %+v", job.State, job.Tasks)
			}
			s.AtRest()
		})
		t.Run(how+" while a machine cannot be removed, the next one removes it", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			job := s.MustSubmit(one)
			s.Until("the job's machine is there", func() bool { return len(s.Attempts("batch-1")) > 0 })
			s.Provider.FailDestroy("batch-1", errors.New("device busy"))
			s.MustEnd(job.ID)
			s.Until("removing it failed", func() bool {
				m, err := s.Machine(t.Context(), "batch-1")
				return err == nil && m.State == dspool.Destroying && m.Health == dspool.Unhealthy
			})
			end(s)
			s.Start()
			s.Provider.FailDestroy("batch-1", nil)
			s.AtRest()
		})
		t.Run(how+" again and again, it loses nothing of an array", func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, servertest.Options{})
			job := s.MustSubmit(dspool.JobSpec{Command: []string{"sleep", "0.01"}, Array: "1-200"})
			for _, done := range []int64{1, 20, 60, 120} {
				s.Until("some tasks have ended", func() bool {
					j, err := s.Job(t.Context(), job.ID)
					return err == nil && j.Tasks.Succeeded >= done
				})
				end(s)
				s.Start()
			}
			if job = s.MustEnd(job.ID); job.Tasks.Succeeded != 200 {
				t.Errorf("job ended %+v", job)
			}
			s.AtRest()
			if n := s.Steps.Peak("batch"); n > 4 {
				t.Errorf("the pool had %d machines at once", n)
			}
		})
	}
}

func TestRepeatedSubmit(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	req := api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}}, Key: "once"}
	first, err := s.Submit(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Start()
	second, err := s.Submit(t.Context(), req)
	if err != nil || second.ID != first.ID {
		t.Errorf("the same key made job %d and then %d, %v", first.ID, second.ID, err)
	}
	other, err := s.As("bob").Submit(t.Context(), req)
	if err != nil || other.ID == first.ID || other.User != "bob" {
		t.Errorf("another user's submit with that key returned %+v, %v", other, err)
	}
	for _, id := range []int64{first.ID, other.ID} {
		s.MustEnd(id)
	}
	s.AtRest()
}
