package servertest_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/servertest"
)

// faulty starts attempts that a fault does not keep from it; what a task runs then is its command.
func faulty(fault func(initd.Spec) dspool.Reason) servertest.Options {
	return servertest.Options{Tasks: func(s initd.Spec) agenttest.Outcome {
		if why := fault(s); !why.IsZero() {
			return agenttest.Outcome{Fault: why, Host: true}
		}
		return agenttest.Commands(s)
	}}
}

func TestFaultsOfASharePutTasksBack(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	full.Store(true)
	s := servertest.New(t, faulty(func(initd.Spec) dspool.Reason {
		if full.Load() {
			return dspool.Why(dspool.WhyShareFull, dspool.ReasonParams{Name: "/what/the/machine/says"})
		}
		return dspool.Reason{}
	}))
	ctx := t.Context()
	problem := func() bool {
		st, err := s.Status(ctx)
		return err == nil && slices.ContainsFunc(st.Problems, func(r dspool.Reason) bool {
			return r.Is(dspool.WhyPoolProblem) && r.Because[0].Is(dspool.WhyHeld, dspool.WhyHeldTrying) && r.Because[0].Because[0].Name == "team"
		})
	}
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-300", CPUs: 0.1, Memory: 64 << 20})
	s.Until("the pool is held", func() bool { return len(s.EventsOf("pool.held")) == 1 })
	s.Until("status says what is wrong", problem)
	// However often one is tried, none is used up.
	for _, n := range []int{1, 2} {
		tried := len(s.Spawned(job.ID))
		s.Until("some are tried again", func() bool {
			spawned := 0
			for _, k := range s.Spawned(job.ID) {
				spawned += k
			}
			return spawned >= tried+n
		})
	}
	if job, err := s.Job(ctx, job.ID); err != nil || job.Tasks.Pending+job.Tasks.Active() != 300 || !job.Reason.Is(dspool.WhyHeld, dspool.WhyHeldTrying) {
		t.Errorf("%+v because %s: %v", job.Tasks, job.Reason, err)
	}
	if next := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}); !next.Reason.Is(dspool.WhyHeldTrying) || next.Reason.Because[0].Name != "team" {
		t.Errorf("a job that is submitted now says %q", next.Reason)
	}
	full.Store(false)
	if job = s.MustEnd(job.ID); job.Tasks.Succeeded != 300 {
		t.Errorf("the job ended %+v: %s", job.Tasks, job.Reason)
	}
	if n := len(s.EventsOf("pool.opened")); n != 1 {
		t.Errorf("the pool opened %d times", n)
	}
	s.Until("no problem is left", func() bool { return !problem() })
	s.Until("the pool is at rest", func() bool {
		list, err := s.Machines(ctx, "", false)
		return err == nil && len(list.Items) == 0
	})
}

// One at a time: who waits for a share that does not answer must not be asked for by a whole queue.
func TestOneTaskIsTriedAtATime(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	var starting, most atomic.Int64
	s := servertest.New(t, faulty(func(initd.Spec) dspool.Reason {
		most.Store(max(most.Load(), starting.Add(1)))
		if broken.Load() {
			return dspool.Reason{Code: dspool.WhyShareFails, ReasonParams: dspool.ReasonParams{Detail: "input/output error"}}
		}
		return dspool.Reason{}
	}))
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-100", CPUs: 0.1, Memory: 64 << 20})
	s.Until("the pool is held", func() bool { return len(s.EventsOf("pool.held")) == 1 })
	s.Until("all that had been placed are back", func() bool {
		j, err := s.Job(t.Context(), job.ID)
		return err == nil && j.Tasks.Pending == 100
	})
	starting.Store(0)
	most.Store(0)
	s.Until("two were tried", func() bool {
		j, err := s.Job(t.Context(), job.ID)
		if err == nil && j.Tasks.Active() > 1 {
			t.Errorf("%d are tried at once", j.Tasks.Active())
		}
		return starting.Load() >= 2
	})
	broken.Store(false)
	if job = s.MustEnd(job.ID); job.Tasks.Succeeded != 100 {
		t.Errorf("the job ended %+v: %s", job.Tasks, job.Reason)
	}
}

func TestFaultOfOneTaskEndsThatTask(t *testing.T) {
	t.Parallel()
	for name, why := range map[string]dspool.Reason{
		"of the share": dspool.Why(dspool.WhyShareFails, dspool.ReasonParams{Detail: "structure needs cleaning"}),
		"of the host":  dspool.Why(dspool.WhyHostFails, dspool.ReasonParams{Detail: "make a cgroup: no space left on device"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := servertest.New(t, faulty(func(spec initd.Spec) dspool.Reason {
				if spec.Index == 7 && spec.Count == 20 {
					return why
				}
				return dspool.Reason{}
			}))
			job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}, Array: "1-20", CPUs: 0.1, Memory: 64 << 20})
			// Others come and go; each shows that it is not the pool.
			for job.State != dspool.JobFailed {
				s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}).ID)
				var err error
				if job, err = s.Job(t.Context(), job.ID); err != nil {
					t.Fatal(err)
				}
			}
			if job.Tasks.Succeeded != 19 || job.Tasks.Failed != 1 {
				t.Errorf("the job ended %+v: %s", job.Tasks, job.Reason)
			}
			task, err := s.Task(t.Context(), job.ID, 7)
			if err != nil || task.State != dspool.TaskFailed || !task.Reason.Is(why.Code) || task.Reason.Detail != why.Detail {
				t.Errorf("task 7 is %s: %+v, %v", task.State, task.Reason, err)
			}
			if n := s.Spawned(job.ID)[7]; n < 3 {
				t.Errorf("it was tried %d times only", n)
			}
		})
	}
}
