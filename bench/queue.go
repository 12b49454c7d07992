package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

const (
	submitRounds  = 20
	restartRounds = 7
	settle        = 2 * time.Second // for garbage to be collected and passes to be over
)

// measureQueue submits to a pool whose one machine is taken.
func measureQueue(ctx context.Context, s *server, r *report) error {
	if _, err := s.resize(ctx, poolFull, 1); err != nil {
		return err
	}
	blocker, err := s.submit(ctx, "", "sleep", "100000")
	if err != nil {
		return err
	}
	err = until(ctx, "a task that keeps the pool full", machineWithin, func() (bool, error) {
		j, err := s.Job(ctx, blocker.ID)
		return j.Tasks.Running == 1, err
	})
	if err != nil {
		return err
	}
	if s.o.wants("submit") {
		if err := s.measureSubmit(ctx, r); err != nil {
			return err
		}
	}
	if s.o.wants("queue") {
		if err := s.measureMillion(ctx, r); err != nil {
			return err
		}
	}
	if _, err := s.CancelJob(ctx, blocker.ID); err != nil {
		return err
	}
	_, err = s.resize(ctx, poolFull, 0)
	return err
}

func (s *server) submit(ctx context.Context, array string, command ...string) (dspool.Job, error) {
	return s.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Pool: poolFull, Command: command, Array: array}})
}

// measureSubmit times submits over the socket, long and short arrays in turn.
func (s *server) measureSubmit(ctx context.Context, r *report) error {
	progress("dspool: %d submits of arrays of 1,000 and of 100,000", submitRounds)
	took := map[string][]time.Duration{}
	const short, long = "1-1000", "1-100000"
	for i := range submitRounds + 1 {
		for _, array := range []string{short, long} {
			begun := time.Now()
			job, err := s.submit(ctx, array, "/bin/true")
			one := time.Since(begun)
			if err != nil {
				return err
			}
			if i > 0 {
				took[array] = append(took[array], one)
			}
			if _, err := s.CancelJob(ctx, job.ID); err != nil {
				return err
			}
		}
	}
	ratio := median(took[long]).Seconds() / median(took[short]).Seconds()
	r.add(row{
		what: "submit of 100,000 tasks, median", dspool: millis(median(took[long])), peer: millis(median(took[short])) + " submit of 1,000",
		ratio: times(ratio), aim: "≤ 3×", met: ratio <= 3,
	})
	r.note("submits: of 1,000 tasks %s, of 100,000 %s", spread(took[short]), spread(took[long]))
	return nil
}

// measureMillion weighs a million queued tasks, and restarts the server with them. Both sides
// start from a server that has just been restarted with one queued task.
func (s *server) measureMillion(ctx context.Context, r *report) error {
	progress("dspool: a million queued tasks, %d restarts with one and with all", restartRounds)
	if _, err := s.submit(ctx, "", "/bin/true"); err != nil {
		return err
	}
	one, err := s.restarts(ctx)
	if err != nil {
		return err
	}
	before, err := s.weigh(ctx)
	if err != nil {
		return err
	}
	job, err := s.submit(ctx, "1-1000000", "/bin/true")
	if err != nil {
		return err
	}
	after, err := s.weigh(ctx)
	if err != nil {
		return err
	}
	all, err := s.restarts(ctx)
	if err != nil {
		return err
	}
	restarted, err := s.weigh(ctx)
	if err != nil {
		return err
	}
	if job, err = s.Job(ctx, job.ID); err != nil {
		return err
	}
	if job.Tasks.Pending != 1_000_000 {
		return fmt.Errorf("%d of a million tasks are queued", job.Tasks.Pending)
	}
	const mb = 1e6
	more := max(after.total(), restarted.total()) - before.total()
	r.add(row{
		what: "a million queued tasks, server's memory", dspool: fmt.Sprintf("%.1f MB", float64(max(after.total(), restarted.total()))/mb),
		peer: fmt.Sprintf("%.1f MB with one", float64(before.total())/mb), ratio: fmt.Sprintf("%+.1f MB", float64(more)/mb),
		aim: "≤ +100 MB", met: more <= 100e6,
	})
	ratio := median(all).Seconds() / median(one).Seconds()
	r.add(row{
		what: "restart with a million queued tasks, median", dspool: millis(median(all)), peer: millis(median(one)) + " with one",
		ratio: times(ratio), aim: "≤ 1.5×", met: ratio <= 1.5,
	})
	r.note("restarts, from exec to the first answer: with one queued task %s, with a million %s", spread(one), spread(all))
	_, err = s.CancelJob(ctx, job.ID)
	return err
}

func (s *server) restarts(ctx context.Context) (took []time.Duration, err error) {
	for range restartRounds {
		s.stop()
		one, err := s.start(ctx)
		if err != nil {
			return nil, err
		}
		took = append(took, one)
	}
	return took, nil
}

// weigh returns the server's memory once it has planned with what is queued.
func (s *server) weigh(ctx context.Context) (memory, error) {
	select {
	case <-ctx.Done():
		return memory{}, ctx.Err()
	case <-time.After(settle):
	}
	return memoryOf(s.pid())
}
