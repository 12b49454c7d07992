package servertest_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/servertest"
)

var errQuota = errors.New("quota exceeded")

// firstly scripts the first n machines that are made.
func firstly(n int, s fake.Script) func(provider.MachineSpec, int) fake.Script {
	var made atomic.Int32
	return func(provider.MachineSpec, int) fake.Script {
		if int(made.Add(1)) <= n {
			return s
		}
		return fake.Script{}
	}
}

var quick = strings.Replace(servertest.Config, "start_timeout: 30s", "start_timeout: 1s", 1)

func TestProviderFaults(t *testing.T) {
	t.Parallel()
	one := dspool.JobSpec{Command: []string{"true"}}
	// recovers runs a job on a pool whose first machine goes wrong.
	recovers := func(t *testing.T, o servertest.Options, failure string) {
		t.Parallel()
		s := servertest.New(t, o)
		job := s.MustSubmit(one)
		s.Until("pool and job say what failed", func() bool {
			p, err1 := s.Pool(t.Context(), "batch")
			j, err2 := s.Job(t.Context(), job.ID)
			status, err3 := s.Status(t.Context())
			return errors.Join(err1, err2, err3) == nil && strings.Contains(p.Note.Text, failure) && strings.Contains(j.Reason.Text, failure) &&
				strings.Contains(problems(status), failure)
		})
		if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded {
			t.Errorf("job ended %s: %s", job.State, job.Reason)
		}
		s.Until("the fault is forgotten", func() bool {
			p, err := s.Pool(t.Context(), "batch")
			return err == nil && p.Note.Text == ""
		})
		s.AtRest()
		if m, err := s.Machine(t.Context(), "batch-1"); err != nil || m.State != dspool.Failed || !strings.Contains(m.Failure.Text, failure) {
			t.Errorf("the first machine is %s because %q, %v", m.State, m.Failure, err)
		}
		if n := s.Steps.Peak("batch"); n > 1 {
			t.Errorf("%d machines were made at once for one task", n)
		}
	}
	t.Run("a creation that fails is backed off from, and tried again", func(t *testing.T) {
		recovers(t, servertest.Options{Script: firstly(1, fake.Script{Error: errQuota})}, "quota exceeded")
	})
	t.Run("a creation that fails and made the machine leaks nothing", func(t *testing.T) {
		recovers(t, servertest.Options{Script: firstly(1, fake.Script{Error: errQuota, Made: true})}, "quota exceeded")
	})
	t.Run("a creation that times out and made the machine leaks nothing", func(t *testing.T) {
		recovers(t, servertest.Options{Script: firstly(1, fake.Script{Hang: true, Made: true}), CreateWithin: second}, "deadline exceeded")
	})
	t.Run("a machine that boots and never joins is replaced", func(t *testing.T) {
		recovers(t, servertest.Options{Config: quick, Script: firstly(1, fake.Script{Silent: true})}, "did not join within 1s")
	})
	t.Run("a machine that vanishes before it joined is replaced", func(t *testing.T) {
		vanish := make(chan struct{})
		close(vanish)
		recovers(t, servertest.Options{Script: firstly(1, fake.Script{Silent: true, Vanish: vanish})}, "vanished")
	})

	t.Run("a pool whose machines all fail tries one at a time, ever more seldom", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{Script: firstly(1000, fake.Script{Error: errQuota})})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-100"})
		s.Until("some have failed", func() bool {
			list, err := s.Machines(t.Context(), "batch", true)
			failed := 0
			for _, m := range list.Items {
				if m.State == dspool.Failed {
					failed++
				}
			}
			return err == nil && failed >= 3
		})
		if n := s.Steps.Peak("batch"); n > 4 {
			t.Errorf("%d machines at once", n)
		}
		if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		s.AtRest()
	})
	t.Run("a task whose machine is killed is lost, and the pool goes on", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}, Array: "1-2"})
		tasks := s.Running(job.ID, 2)
		next := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-5"})
		s.Provider.Kill(tasks[0].Machine)
		s.Until("the task is lost", func() bool {
			task, err := s.Task(t.Context(), job.ID, tasks[0].Index)
			return err == nil && task.State == dspool.TaskLost && strings.Contains(task.Reason.Text, tasks[0].Machine) && task.Ended != nil
		})
		if n := s.MustEnd(next.ID); n.State != dspool.JobSucceeded {
			t.Errorf("the next job ended %s: %s", n.State, n.Reason)
		}
		s.Inside(tasks[1].Machine).End(tasks[1].Attempt, 0)
		if job = s.MustEnd(job.ID); job.State != dspool.JobFailed || job.Tasks.Lost != 1 || job.Tasks.Succeeded != 1 || job.Reason.Text != "1 lost of 2 tasks" {
			t.Errorf("job ended %s with %+v: %s", job.State, job.Tasks, job.Reason)
		}
		s.AtRest()
	})
	t.Run("a list that fails changes nothing, and says so", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		s.Provider.FailList(errors.New("host unreachable"))
		s.Until("the status says it", func() bool {
			status, err := s.Status(t.Context())
			return err == nil && strings.Contains(problems(status), "host unreachable")
		})
		s.Kill()
		s.Start() // and does not know what is there
		if m, err := s.Machine(t.Context(), task.Machine); err != nil || m.State != dspool.Ready {
			t.Errorf("machine is %s, %v", m.State, err)
		}
		s.Provider.FailList(nil)
		s.Inside(task.Machine).End(task.Attempt, 0)
		if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded {
			t.Errorf("job ended %s: %s", job.State, job.Reason)
		}
		s.AtRest()
	})
	t.Run("what the store does not know is swept", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		for i := range 20 {
			s.Provider.HalfMake(provider.MachineSpec{Name: fmt.Sprintf("batch-%d", 100+i), Resources: dspool.Resources{CPUs: 1, Memory: 1 << 30}})
		}
		s.AtRest()
	})
	t.Run("a removal that fails for a while is shown, and done", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		s.Provider.FailDestroy("batch-1", errors.New("device busy"))
		s.MustEnd(s.MustSubmit(one).ID)
		s.Until("status and events say it", func() bool {
			status, err := s.Status(t.Context())
			return err == nil && strings.Contains(problems(status), "removing it failed") && len(s.EventsOf("machine.stuck")) == 1
		})
		s.Provider.FailDestroy("batch-1", nil)
		s.AtRest()
	})
	t.Run("slow creations hold up no removal", func(t *testing.T) {
		t.Parallel()
		start := make(chan struct{})
		s := servertest.New(t, servertest.Options{
			Config: strings.Replace(servertest.Config, "max: 4", "max: 30", 1),
			Script: func(spec provider.MachineSpec, _ int) fake.Script {
				if spec.Name == "batch-1" {
					return fake.Script{}
				}
				return fake.Script{Start: start}
			},
		})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		s.Running(job.ID, 1)
		next := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-20", CPUs: 1})
		s.Until("machines are being made", func() bool {
			p, err := s.Pool(t.Context(), "batch")
			return err == nil && p.Machines == 21
		})
		if _, err := s.RemoveMachine(t.Context(), "batch-1", true); err != nil {
			t.Fatal(err)
		}
		if job = s.MustEnd(job.ID); job.Tasks.Lost != 1 {
			t.Errorf("job ended %+v", job.Tasks)
		}
		close(start)
		s.MustEnd(next.ID)
		s.AtRest()
	})
	t.Run("an agent that falls silent makes its machine unhealthy and loses nothing", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{Silent: second})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		task := s.Running(job.ID, 1)[0]
		gate := s.Steps.Hold(servertest.Enrol)
		s.KillAgent(task.Machine)
		s.Until("the machine is unhealthy", func() bool {
			m, err := s.Machine(t.Context(), task.Machine)
			return err == nil && m.Health == dspool.Unhealthy && strings.Contains(m.HealthReason.Text, "not been heard")
		})
		s.Inside(task.Machine).End(task.Attempt, 0)
		gate.Open()
		if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded {
			t.Errorf("job ended %s: %s", job.State, job.Reason)
		}
		s.AtRest()
	})
}

func TestMachineRemoval(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T) (*servertest.System, dspool.Job, dspool.Task) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
		return s, job, s.Running(job.ID, 1)[0]
	}
	t.Run("without force waits for what runs", func(t *testing.T) {
		s, job, task := begin(t)
		op, err := s.RemoveMachine(t.Context(), task.Machine, false)
		if err != nil || op.State != dspool.OperationRunning {
			t.Fatalf("operation %+v, %v", op, err)
		}
		next := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, CPUs: 0.1, Memory: 64 << 20})
		s.MustEnd(next.ID) // on another machine, while the first still runs its task
		s.Inside(task.Machine).End(task.Attempt, 0)
		if job = s.MustEnd(job.ID); job.State != dspool.JobSucceeded {
			t.Errorf("job ended %s: %s", job.State, job.Reason)
		}
		if op, err = s.WaitOperation(t.Context(), op.ID, 0, nil); err != nil || op.State != dspool.OperationSucceeded {
			t.Errorf("operation ended %+v, %v", op, err)
		}
		s.AtRest()
	})
	t.Run("with force ends what runs, as lost", func(t *testing.T) {
		s, job, task := begin(t)
		if _, err := s.RemoveMachine(t.Context(), task.Machine, true); err != nil {
			t.Fatal(err)
		}
		if job = s.MustEnd(job.ID); job.Tasks.Lost != 1 || !strings.Contains(job.Reason.Text, "removed by root") {
			t.Errorf("job ended %s with %+v: %s", job.State, job.Tasks, job.Reason)
		}
		s.AtRest()
		if _, err := s.RemoveMachine(t.Context(), task.Machine, true); dspool.ErrorCode(err) != dspool.Conflict {
			t.Errorf("removing it again: %v", err)
		}
	})
	t.Run("of one that is missing says so", func(t *testing.T) {
		s, job, _ := begin(t)
		if _, err := s.RemoveMachine(t.Context(), "batch-99", true); dspool.ErrorCode(err) != dspool.NotFound {
			t.Error(err)
		}
		if _, err := s.CancelJob(t.Context(), job.ID); err != nil {
			t.Fatal(err)
		}
		s.AtRest()
	})
}

func TestResize(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	resize := func(lo, hi, spare int) error {
		_, err := s.ResizePool(t.Context(), "batch", api.ResizeRequest{Min: &lo, Max: &hi, Spare: &spare})
		return err
	}
	for _, n := range [][3]int{{-1, 4, 0}, {0, 0, 0}, {0, -1, 0}, {5, 4, 0}, {0, 4, -1}, {0, dspool.MaxMachines + 1, 0}, {0, 1 << 62, 0}} {
		if err := resize(n[0], n[1], n[2]); dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("min %d, max %d, spare %d: %v", n[0], n[1], n[2], err)
		}
	}
	if p, err := s.Pool(t.Context(), "batch"); err != nil || p.Min != 0 || p.Max != 4 {
		t.Fatalf("refused sizes changed the pool to %+v, %v", p.Pool, err)
	}
	if err := resize(3, 3, 0); err != nil {
		t.Fatal(err)
	}
	s.Until("three machines are ready", func() bool {
		p, err := s.Pool(t.Context(), "batch")
		return err == nil && p.Ready == 3 && p.Idle == 3
	})
	if err := resize(0, 1, 0); err != nil {
		t.Fatal(err)
	}
	s.AtRest()
	if n := s.Steps.Peak("batch"); n != 3 {
		t.Errorf("the pool had %d machines at once", n)
	}
}

// problems are what an administrator should look at, a line each.
func problems(s api.Status) string {
	var lines []string
	for _, p := range s.Problems {
		lines = append(lines, p.Text)
	}
	return strings.Join(lines, "\n")
}
