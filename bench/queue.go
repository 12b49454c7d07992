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
	alone, err := s.submit(ctx, "", "/bin/true")
	if err != nil {
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
	r.memory("a million queued tasks in one job, server's memory", before, after, restarted)
	ratio := median(all).Seconds() / median(one).Seconds()
	r.add(row{
		what: "restart with the one job of a million, median", dspool: millis(median(all)), peer: millis(median(one)) + " with one",
		ratio: times(ratio), aim: "≤ 1.5×", met: ratio <= 1.5,
	})
	r.note("restarts, from exec to the first answer: with one queued task %s, with a million %s", spread(one), spread(all))
	if _, err := s.CancelJob(ctx, job.ID); err != nil {
		return err
	}
	if err := s.measureMany(ctx, before, r); err != nil {
		return err
	}
	// What still waits would have the pool make a machine again.
	_, err = s.CancelJob(ctx, alone.ID)
	return err
}

// measureMany weighs a million queued tasks in the form that is hardest for dspool: many jobs.
func (s *server) measureMany(ctx context.Context, before memory, r *report) error {
	const jobs = 1000
	progress("dspool: a million queued tasks in %d jobs", jobs)
	var ids []int64
	begun := time.Now()
	for range jobs {
		job, err := s.submit(ctx, "1-1000", "/bin/true")
		if err != nil {
			return err
		}
		ids = append(ids, job.ID)
	}
	each := time.Since(begun) / jobs
	after, err := s.weigh(ctx)
	if err != nil {
		return err
	}
	took, err := s.restarts(ctx)
	if err != nil {
		return err
	}
	restarted, err := s.weigh(ctx)
	if err != nil {
		return err
	}
	r.memory("a million queued tasks in 1,000 jobs, memory", before, after, restarted)
	r.note("a million in 1,000 jobs: submit %s each, restart %s", millis(each), spread(took))
	for _, id := range ids {
		if _, err := s.CancelJob(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// memory reports the most that the server took over what it takes with one queued task.
func (r *report) memory(what string, before memory, after ...memory) {
	const mb = 1e6
	most := int64(0)
	for _, m := range after {
		most = max(most, m.total())
	}
	more := most - before.total()
	r.add(row{
		what: what, dspool: fmt.Sprintf("%.1f MB", float64(most)/mb),
		peer: fmt.Sprintf("%.1f MB with one", float64(before.total())/mb), ratio: fmt.Sprintf("%+.1f MB", float64(more)/mb),
		aim: "≤ +100 MB", met: more <= 100e6,
	})
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
