package servertest_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

func TestCancel(t *testing.T) {
	t.Parallel()
	cancel := func(t *testing.T, s *servertest.System, id int64) dspool.Job {
		t.Helper()
		if _, err := s.CancelJob(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		j := s.MustEnd(id)
		if j.State != dspool.JobCancelled || j.Reason.Text != "cancelled by root" {
			t.Errorf("job ended %s: %s", j.State, j.Reason)
		}
		if again, err := s.CancelJob(t.Context(), id); err != nil || mustJSON(t, again) != mustJSON(t, j) {
			t.Errorf("cancelling it again made it %+v, %v", again, err)
		}
		return j
	}
	t.Run("of a queued job never starts it", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		gate := s.Steps.Hold(servertest.Create)
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
		s.MustReach(gate)
		cancel(t, s, job.ID)
		gate.Open()
		s.AtRest()
		if n := len(s.Spawned(job.ID)); n != 0 {
			t.Errorf("%d tasks ran", n)
		}
	})
	t.Run("of a running job ends its tasks, also stubborn ones", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"stubborn"}})
		s.Running(job.ID, 1)
		cancel(t, s, job.ID)
		if task, err := s.Task(t.Context(), job.ID, 0); err != nil || task.State != dspool.TaskCancelled || task.Reason.Text != "cancelled by root" {
			t.Errorf("%+v, %v", task, err)
		}
		s.AtRest()
	})
	t.Run("of a large array ends what runs and forgets what waits", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, Array: "1-1000000"})
		s.Running(job.ID, 4)
		if j := cancel(t, s, job.ID); j.Tasks.Cancelled != 1_000_000 {
			t.Errorf("%+v", j.Tasks)
		}
		after := int64(999_990)
		list, err := s.Tasks(t.Context(), job.ID, client.TaskFilter{State: dspool.TaskCancelled, After: &after})
		if err != nil || len(list.Items) != 10 || list.Items[9].Index != 1_000_000 {
			t.Errorf("%+v, %v", list, err)
		}
		s.AtRest()
	})
}

func TestAfter(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	first := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	running := s.Running(first.ID, 1)[0]
	then := func(command string, after ...int64) int64 {
		return s.MustSubmit(dspool.JobSpec{Command: []string{command}, After: after}).ID
	}
	second := then("true", first.ID)
	third := then("false", first.ID, second)
	never := then("true", third)
	neither := then("true", never)
	s.Until("they wait", func() bool {
		for _, id := range []int64{second, third, never, neither} {
			j, err := s.Job(t.Context(), id)
			if err != nil || j.State != dspool.JobQueued || !strings.HasPrefix(j.Reason.Text, "waits for job ") {
				return false
			}
		}
		return true
	})
	s.Kill()
	s.Start()
	s.Inside(running.Machine).End(running.Attempt, 0)
	for id, want := range map[int64]dspool.JobState{first.ID: dspool.JobSucceeded, second: dspool.JobSucceeded, third: dspool.JobFailed, never: dspool.JobCancelled, neither: dspool.JobCancelled} {
		if j := s.MustEnd(id); j.State != want {
			t.Errorf("job %d ended %s: %s", id, j.State, j.Reason)
		}
	}
	if j := s.MustEnd(never); !strings.Contains(j.Reason.Text, "which it waits for, failed") {
		t.Errorf("it was cancelled because %q", j.Reason)
	}
	if n := len(s.Spawned(never)) + len(s.Spawned(neither)); n != 0 {
		t.Errorf("%d tasks ran that never should", n)
	}
	if _, err := s.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}, After: []int64{third}}}); dspool.ErrorCode(err) != dspool.Invalid {
		t.Errorf("waiting for a failed job: %v", err)
	}
	s.MustEnd(then("true", first.ID))
	blocker := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	last := then("true", blocker.ID)
	if _, err := s.CancelJob(t.Context(), blocker.ID); err != nil {
		t.Fatal(err)
	}
	if j := s.MustEnd(last); j.State != dspool.JobCancelled || !strings.Contains(j.Reason.Text, "which it waits for, cancelled") {
		t.Errorf("job ended %s: %s", j.State, j.Reason)
	}
	s.AtRest()
}

func TestMaxRunning(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, Array: "1-6", MaxRunning: 2})
	for round := range 3 {
		tasks := s.Running(job.ID, 2)
		if j, err := s.Job(t.Context(), job.ID); err != nil || j.Tasks.Active() != 2 || (round < 2 && !strings.Contains(j.Reason.Text, "at most 2 tasks")) {
			t.Errorf("round %d: %+v because %q, %v", round, j.Tasks, j.Reason, err)
		}
		for _, task := range tasks {
			s.Inside(task.Machine).End(task.Attempt, 0)
		}
		s.Until("they have ended", func() bool {
			j, err := s.Job(t.Context(), job.ID)
			return err == nil && j.Tasks.Succeeded == int64(2*round+2)
		})
	}
	s.MustEnd(job.ID)
	s.AtRest()
	if n := s.Steps.Peak("batch"); n > 2 {
		t.Errorf("%d machines for two tasks at once", n)
	}
}

func TestMillionQueuedTasks(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	blocker := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, Array: "1-4"})
	tasks := s.Running(blocker.ID, 4)
	begun := time.Now()
	var jobs []int64
	for range 10 {
		jobs = append(jobs, s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-100000"}).ID)
	}
	submitted := time.Since(begun)
	s.Kill()
	begun = time.Now()
	s.Start()
	status, err := s.Status(t.Context())
	if err != nil || status.QueuedTasks != 1_000_000 {
		t.Errorf("%d tasks queued, %v", status.QueuedTasks, err)
	}
	t.Logf("ten submits took %s, the restart %s", submitted, time.Since(begun))
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	t.Logf("the heap of all tests together is %s", dspool.FormatBytes(int64(mem.HeapAlloc)))
	s.Until("all wait with a reason", func() bool {
		list, err := s.Jobs(t.Context(), client.JobFilter{State: dspool.JobQueued})
		for _, j := range list.Items {
			if !strings.Contains(j.Reason.Text, "at its max of 4 machines") {
				return false
			}
		}
		return err == nil && len(list.Items) == 10
	})
	for _, id := range jobs {
		if _, err := s.CancelJob(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, task := range tasks {
		s.Inside(task.Machine).End(task.Attempt, 0)
	}
	s.MustEnd(blocker.ID)
	s.AtRest()
}

func TestRecall(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: strings.Replace(servertest.Config, "max: 4", "max: 1", 1)})
	ada, bob := s.As("ada"), s.As("bob")
	// Short tasks are placed ahead on their machine, until somebody else waits for it.
	job, err := ada.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"sleep", "0.002"}, Array: "1-500"}})
	if err != nil {
		t.Fatal(err)
	}
	s.Until("tasks are placed ahead", func() bool {
		j, err := s.Job(t.Context(), job.ID)
		m, err2 := s.Server.Control.Machine(t.Context(), admin, "batch-1")
		if err2 == nil && (!m.Used.Fits(m.Resources) || m.Claims > 1) {
			t.Errorf("machine of %v shows %v in use by %d claims", m.Resources, m.Used, m.Claims)
		}
		return err == nil && j.Tasks.Succeeded > 100 && j.Tasks.Active() > 8
	})
	other, err := bob.Submit(t.Context(), api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}, Array: "1-3"}})
	if err != nil {
		t.Fatal(err)
	}
	if other = s.MustEnd(other.ID); other.State != dspool.JobSucceeded {
		t.Errorf("the other user's job ended %s: %s", other.State, other.Reason)
	}
	if j, err := s.Job(t.Context(), job.ID); err != nil || j.State.Ended() {
		t.Errorf("the other user waited for the whole array, which is %s, %v", j.State, err)
	}
	if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded || job.Tasks.Succeeded != 500 {
		t.Errorf("job ended %s with %+v", job.State, job.Tasks)
	}
	s.AtRest()
}
