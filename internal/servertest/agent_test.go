package servertest_test

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/servertest"
)

func TestAgentKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	ends := func(t *testing.T, s *servertest.System, job int64, state dspool.JobState) {
		t.Helper()
		if j := s.MustEnd(job); j.State != state {
			t.Errorf("job ended %s: %s", j.State, j.Reason)
		}
		s.AtRest()
	}
	t.Run("before it enrolled, the next one enrols", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		gate := s.Steps.Hold(servertest.Enrol)
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		s.KillAgent(s.MustReach(gate))
		gate.Open()
		ends(t, s, job.ID, dspool.JobSucceeded)
	})
	t.Run("while it enrols, the next one enrols with the same key", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		gate := s.Steps.Hold(servertest.Created) // the machine runs, its agent may join
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		name := s.MustReach(gate)
		for range 5 {
			s.KillAgent(name)
		}
		gate.Open()
		ends(t, s, job.ID, dspool.JobSucceeded)
	})
	t.Run("with tasks waiting and running, they run on and once", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, CPUs: 0.1, Memory: 64 << 20, Array: "1-10"})
		for _, task := range s.Running(job.ID, 10) {
			s.KillAgent(task.Machine)
			s.Inside(task.Machine).End(task.Attempt, 0)
		}
		ends(t, s, job.ID, dspool.JobSucceeded)
	})
	t.Run("after a task ended and before that was reported, the next one reports it", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		gate := s.Steps.Hold(servertest.Enrol)
		s.KillAgent(task.Machine)
		s.MustReach(gate)
		s.Inside(task.Machine).End(task.Attempt, 0)
		gate.Open()
		ends(t, s, job.ID, dspool.JobSucceeded)
	})
	t.Run("while it ends a cancelled task, the task ends cancelled", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"stubborn"}})
		task := s.Running(job.ID, 1)[0]
		if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		s.KillAgent(task.Machine)
		ends(t, s, job.ID, dspool.JobCancelled)
	})
	t.Run("again and again, an array runs once and whole", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"sleep", "0.005"}, Array: "1-100"})
		for _, done := range []int64{1, 10, 30, 60, 80} {
			s.Until("some tasks have ended", func() bool {
				j, err := s.Job(t.Context(), job.ID)
				return err == nil && j.Tasks.Succeeded >= done
			})
			list, err := s.Machines(t.Context(), "batch", false)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range list.Items {
				s.KillAgent(m.Name)
			}
		}
		ends(t, s, job.ID, dspool.JobSucceeded)
	})
}
