package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/dspool/dspool"
)

// measureBatch measures what the options ask for of the queue and of machines.
func measureBatch(ctx context.Context, o options, dir string, slurm *slurmResult, r *report) error {
	s, err := newServer(o, dir, batchTeam)
	if err != nil {
		return err
	}
	return s.with(ctx, func() error { return s.batch(ctx, slurm, r) })
}

func (s *server) batch(ctx context.Context, slurm *slurmResult, r *report) error {
	o := s.o
	image, err := s.waitImage(ctx, "minimal")
	if err != nil {
		return err
	}
	if o.wants("tasks") {
		if err := measureTasks(ctx, s, slurm, r); err != nil {
			return fmt.Errorf("measure tasks: %w", err)
		}
	}
	if o.wants("machines") {
		if err := measureMachines(ctx, s, image, r); err != nil {
			return fmt.Errorf("measure machines: %w", err)
		}
	}
	if o.wants("submit") || o.wants("queue") {
		if err := measureQueue(ctx, s, r); err != nil {
			return fmt.Errorf("measure queue: %w", err)
		}
	}
	return nil
}

const taskRounds = 3

// measureTasks runs the array on four warm machines.
func measureTasks(ctx context.Context, s *server, slurm *slurmResult, r *report) error {
	progress("dspool: 4 machines")
	machines, err := s.resize(ctx, poolTasks, 4)
	if err != nil {
		return err
	}
	array := func(n int) dspool.JobSpec {
		return dspool.JobSpec{Pool: poolTasks, Command: []string{"/bin/true"}, Array: fmt.Sprintf("1-%d", n)}
	}
	if _, err := s.run(ctx, array(20)); err != nil {
		return err
	}
	var took []time.Duration
	var spent []cost
	for range taskRounds {
		before, err := s.costs(machines)
		if err != nil {
			return err
		}
		one, err := s.run(ctx, array(s.o.tasks))
		if err != nil {
			return err
		}
		after, err := s.costs(machines)
		if err != nil {
			return err
		}
		if err := s.checkOutput(); err != nil {
			return err
		}
		progress("dspool: %d tasks in %s", s.o.tasks, seconds(one))
		took, spent = append(took, one), append(spent, after.minus(before))
	}
	r.tasks(took, spent, slurm)
	_, err = s.resize(ctx, poolTasks, 0)
	return err
}

// checkOutput makes sure that every task of the last job ran: each made files on the share.
func (s *server) checkOutput() error {
	jobs, err := filepath.Glob(filepath.Join(s.dir, "shares/team/jobs/ada/*"))
	if err != nil {
		return err
	}
	last := slices.MaxFunc(jobs, func(a, b string) int {
		x, _ := strconv.Atoi(filepath.Base(a))
		y, _ := strconv.Atoi(filepath.Base(b))
		return cmp.Compare(x, y)
	})
	outputs, err := filepath.Glob(filepath.Join(last, "*", "stdout.txt"))
	if err != nil {
		return err
	}
	if len(outputs) != s.o.tasks {
		return fmt.Errorf("%d of %d tasks left their output in %s", len(outputs), s.o.tasks, last)
	}
	return nil
}

// cost is where time on cores went.
type cost struct{ server, agents, inits, tasks time.Duration }

func (c cost) minus(d cost) cost {
	return cost{c.server - d.server, c.agents - d.agents, c.inits - d.inits, c.tasks - d.tasks}
}

// costs reads what the server and the parts in the machines have used so far.
func (s *server) costs(machines []dspool.Machine) (c cost, err error) {
	u, err := usageOf(s.pid())
	if err != nil {
		return c, err
	}
	c.server = u.own
	for _, m := range machines {
		pid, err := s.initPID(m.Name)
		if err != nil {
			return c, err
		}
		if u, err = usageOf(pid); err != nil {
			return c, err
		}
		c.inits += u.own
		c.tasks += u.children
		agents, err := childrenOf(pid)
		if err != nil {
			return c, err
		}
		for _, a := range agents {
			if u, err := usageOf(a); err == nil {
				c.agents += u.own
			}
		}
	}
	return c, nil
}

// initPID is the host's pid of a machine's init.
func (s *server) initPID(machine string) (int, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, "runc/machines", machine, "record.json"))
	if err != nil {
		return 0, err
	}
	var record struct{ PID int }
	return record.PID, json.Unmarshal(data, &record)
}

func (r *report) slurm(s slurmResult) {
	r.note("Slurm: %s, 4 slurmd on loopback, one cpu each, no authentication, accounting or control groups; best of:", s.best.Version)
	for _, t := range s.tried {
		r.note("  %s for %d tasks (%.0f/s) with %s", seconds(t.Took), t.Tasks, float64(t.Tasks)/t.Took.Seconds(), t.Name)
	}
}

func (r *report) tasks(took []time.Duration, spent []cost, slurm *slurmResult) {
	n := float64(r.o.tasks)
	// Slurm has had one run with each setting and shows its fastest; dspool shows its median.
	us := median(took)
	line := row{
		what:   fmt.Sprintf("%d tasks `true` on 4 warm machines, submit to end", r.o.tasks),
		dspool: fmt.Sprintf("%s (%.0f/s)", seconds(us), n/us.Seconds()),
		peer:   "Slurm: not measured", aim: "≥ 5×, hoped for 10×", met: true,
	}
	if slurm != nil {
		ratio := slurm.best.Took.Seconds() / us.Seconds()
		line.peer = fmt.Sprintf("%s Slurm (%.0f/s)", seconds(slurm.best.Took), n/slurm.best.Took.Seconds())
		line.ratio, line.met = times(ratio), ratio >= 5
	}
	r.add(line)
	c := spent[slices.Index(took, slices.Min(took))]
	per := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000/n) }
	r.note("dspool: %d runs of %d tasks from %s to %s; time on cores per task in the fastest: server %s, agents %s, inits %s, tasks %s",
		len(took), r.o.tasks, seconds(slices.Min(took)), seconds(slices.Max(took)), per(c.server), per(c.agents), per(c.inits), per(c.tasks))
}
