package plan_test

import (
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

func TestPlacement(t *testing.T) {
	deadline := now.Add(time.Hour)
	old := func(j *plan.Job) { j.Created = ago(time.Minute) }
	mixed := func(p *plan.Pool) { p.Sizes = []dspool.Size{small, big} }
	maxOf := func(n int) func(*plan.Pool) { return func(p *plan.Pool) { p.Max = n } }
	check(t, []rule{
		{
			"nothing to do is an empty plan",
			snapshot(batch(), nil),
			``,
		},
		{
			"tasks go to the fullest machine that fits, many in one action",
			snapshot(batch(), []plan.Machine{box(1), box(2, holds(9, 1, res(1, 2))), box(3)}, job(1, "ada", 3)),
			`place 3 of job 1 on batch-2: machine batch-2 has room
			 wake in 10m0s`,
		},
		{
			"of empty machines the one used last is taken, so that the others can go",
			snapshot(batch(), []plan.Machine{box(1, idleFor(time.Minute)), box(2, idleFor(time.Second)), box(3, idleFor(time.Minute))}, job(1, "ada", 1)),
			`place 1 of job 1 on batch-2: machine batch-2 has room
			 wake in 9m0s`,
		},
		{
			"only ready, healthy machines that nobody wants gone take tasks",
			snapshot(batch(maxOf(6)), []plan.Machine{
				box(1, func(m *plan.Machine) { m.Cordoned = true }),
				box(2, holds(9, 1, res(1, 2)), func(m *plan.Machine) { m.DrainBy = &deadline }),
				box(3, func(m *plan.Machine) { m.Health = dspool.Unhealthy }),
				box(4, holds(9, 1, res(1, 2)), func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }),
				box(5, state(dspool.Destroying)),
				box(6, state(dspool.Stopped)),
			}, job(1, "ada", 1)),
			`job 1: pool batch is at its max of 6 machines: 1 cordoned, 2 draining, 1 unhealthy, 1 stopped, 1 being removed
			 note batch: pool batch is at its max of 6 machines
			 wake in 10m0s`,
		},
		{
			"a job that names a size goes nowhere else",
			snapshot(batch(mixed), []plan.Machine{box(1), box(2, smallBox)}, job(1, "ada", 1, func(j *plan.Job) { j.Size = "small" })),
			`place 1 of job 1 on batch-2: machine batch-2 has room
			 wake in 10m0s`,
		},
		{
			"a job without a size takes any that fits",
			snapshot(batch(mixed), []plan.Machine{box(1), box(2, smallBox)}, job(1, "ada", 1, wants(res(2, 2)))),
			`place 1 of job 1 on batch-1: machine batch-1 has room
			 wake in 10m0s`,
		},
		{
			"tenths of cpus add up",
			snapshot(batch(), []plan.Machine{box(1, holds(9, 3, res(1, 1)), holds(9, 9, res(0.1, 0)))}, job(1, "ada", 2, wants(res(0.1, 0)), func(j *plan.Job) { j.MaxRunning = 1 })),
			`place 1 of job 1 on batch-1: machine batch-1 has room
			 job 1: 1 of at most 1 task run (max running)`,
		},
		{
			"users with less come first, and take turns",
			snapshot(batch(maxOf(2)), []plan.Machine{box(1, holds(9, 2, res(1, 2))), box(2)},
				job(1, "ada", 10), job(2, "bob", 10), job(9, "ada", 0)),
			`place 2 of job 1 on batch-2: machine batch-2 has room
			 place 2 of job 2 on batch-1: machine batch-1 has room
			 place 2 of job 2 on batch-2: machine batch-2 has room
			 job 1: pool batch is at its max of 2 machines and all are busy
			 job 2: pool batch is at its max of 2 machines and all are busy
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"a user's jobs go in order",
			snapshot(batch(maxOf(1)), []plan.Machine{box(1)}, job(2, "ada", 9), job(1, "ada", 3)),
			`place 1 of job 2 on batch-1: machine batch-1 has room
			 place 3 of job 1 on batch-1: machine batch-1 has room
			 job 2: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"max running counts what is placed already",
			snapshot(batch(), []plan.Machine{box(1)}, job(1, "ada", 9, func(j *plan.Job) { j.MaxRunning, j.Placed = 3, 1 })),
			`place 2 of job 1 on batch-1: machine batch-1 has room
			 job 1: 3 of at most 3 tasks run (max running)`,
		},
		{
			"a blocked job waits for what blocks it, and takes no machine",
			snapshot(batch(), nil, job(13, "ada", 9, func(j *plan.Job) { j.Blocked = testkit.Stated("waits for job 12") })),
			`job 13: waits for job 12`,
		},
		{
			"a job of an unknown pool says so",
			snapshot(batch(), nil, job(1, "ada", 9, func(j *plan.Job) { j.Pool = "nope" })),
			`job 1: pool nope does not exist`,
		},
		{
			"a task that fits no size says so",
			snapshot(batch(mixed), nil, job(1, "ada", 1, wants(res(5, 1))), job(2, "ada", 1, wants(res(2, 1)), func(j *plan.Job) { j.Size = "small" }),
				job(3, "ada", 1, func(j *plan.Job) { j.Size = "huge" })),
			`job 1: a task of 5 cpu, 1 GiB fits no size of pool batch
			 job 2: a task of 2 cpu, 1 GiB does not fit size small (1 cpu, 2 GiB)
			 job 3: pool batch has no size huge`,
		},
		{
			"a big task that waited gets a machine to itself",
			snapshot(batch(maxOf(2)), []plan.Machine{box(1, holds(9, 3, res(1, 2))), box(2, holds(9, 2, res(1, 2)))},
				job(7, "ada", 1, wants(res(4, 8)), old), job(8, "bob", 5), job(9, "cyd", 0)),
			`place 1 of job 8 on batch-1: machine batch-1 has room
			 job 7: waits for room on machine batch-2, which is reserved for it
			 job 8: machine batch-2 is reserved for job 7 of ada, which needs more room
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"a big task that has not waited long takes its chances",
			snapshot(batch(maxOf(1)), []plan.Machine{box(1, holds(9, 2, res(1, 2)))},
				job(7, "ada", 1, wants(res(4, 8)), func(j *plan.Job) { j.Created = ago(20 * time.Second) }), job(8, "bob", 1), job(9, "cyd", 0)),
			`place 1 of job 8 on batch-1: machine batch-1 has room
			 job 7: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine
			 wake in 10s`,
		},
		{
			"no machine is reserved while one can be created",
			snapshot(batch(maxOf(2)), []plan.Machine{box(1, holds(9, 2, res(1, 2)))},
				job(7, "ada", 1, wants(res(4, 8)), old), job(8, "bob", 1)),
			`place 1 of job 8 on batch-1: machine batch-1 has room
			 create big in batch: job 7 of ada waits with 1 task of 4 cpu, 8 GiB
			 job 7: waits for a machine that is starting`,
		},
		{
			"no machine is reserved where all tasks are as big",
			snapshot(batch(maxOf(1)), []plan.Machine{box(1, holds(9, 3, res(1, 2)))},
				job(7, "ada", 1, wants(res(2, 2)), old), job(8, "bob", 1, wants(res(2, 2)), old)),
			`job 7: pool batch is at its max of 1 machine and it is busy
			 job 8: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
	})
}

func TestAhead(t *testing.T) {
	taking := func(d time.Duration) func(*plan.Job) { return func(j *plan.Job) { j.TaskTime = d } }
	one := func(p *plan.Pool) { p.Max = 1 }
	waits := func(n int, age time.Duration) func(*plan.Machine) { return attempts(1, n, res(1, 2), false, age) }
	full := []plan.Machine{box(1, holds(1, 4, res(1, 2)))}
	const busy = `
		job 1: pool batch is at its max of 1 machine and it is busy
		note batch: pool batch is at its max of 1 machine
		`
	check(t, []rule{
		{
			"short tasks are placed ahead for a quarter of a second",
			snapshot(batch(one), full, job(1, "ada", 1000, taking(50*time.Millisecond))),
			"place 20 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 50ms" + busy,
		},
		{
			"of very short tasks 64 are ahead at most",
			snapshot(batch(one), full, job(1, "ada", 1000, taking(300*time.Microsecond))),
			"place 64 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 300µs" + busy,
		},
		{
			"tasks ahead come on top of those that fit, evenly over the machines",
			snapshot(batch(func(p *plan.Pool) { p.Max = 2 }), []plan.Machine{box(1), box(2, holds(1, 4, res(1, 2)))}, job(1, "ada", 14, taking(50*time.Millisecond))),
			`place 4 of job 1 on batch-1: machine batch-1 has room
			 place 5 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 50ms
			 place 5 of job 1 on batch-2: placed ahead on machine batch-2, where tasks of this job take about 50ms`,
		},
		{
			"what is ahead already counts",
			snapshot(batch(one), []plan.Machine{box(1, holds(1, 4, res(1, 2)), waits(18, time.Second))}, job(1, "ada", 1000, taking(50*time.Millisecond))),
			"place 2 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 50ms" + busy + "wake in 1s",
		},
		{
			"tasks of a second or of unknown length are not placed ahead",
			snapshot(batch(one), []plan.Machine{box(1, holds(1, 2, res(1, 2)), holds(2, 2, res(1, 2)))}, job(1, "ada", 1000, taking(time.Second)), job(2, "ada", 1000)),
			`job 1: pool batch is at its max of 1 machine and it is busy
			 job 2: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"nothing is placed ahead where the job's tasks take longer than they did",
			snapshot(batch(one), []plan.Machine{box(1, attempts(1, 4, res(1, 2), true, 3*time.Second))}, job(1, "ada", 1000, taking(50*time.Millisecond))),
			busy,
		},
		{
			"max running holds for tasks ahead too",
			snapshot(batch(one), full, job(1, "ada", 1000, taking(50*time.Millisecond), func(j *plan.Job) { j.Placed, j.MaxRunning = 4, 6 })),
			`place 2 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 50ms
			 job 1: 6 of at most 6 tasks run (max running)`,
		},
		{
			"nothing is placed ahead while another user waits, and what is ahead comes back",
			snapshot(batch(one), []plan.Machine{box(1, holds(1, 4, res(1, 2)), waits(1, time.Second))}, job(1, "ada", 1000, taking(50*time.Millisecond)), job(2, "bob", 1)),
			`recall 5: job 2 of bob waits for room
			 job 1: pool batch is at its max of 1 machine and it is busy
			 job 2: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"what did not start within two seconds comes back, once, and nothing follows it",
			snapshot(batch(one), []plan.Machine{box(1, holds(1, 4, res(1, 2)), waits(2, 2*time.Second), func(m *plan.Machine) { m.Attempts[5].Recall = true })},
				job(1, "ada", 1000, taking(50*time.Millisecond))),
			"recall 5: machine batch-1 did not start it within 2s" + busy,
		},
		{
			"a cordoned, draining or sick machine gives back what is ahead",
			snapshot(batch(), []plan.Machine{
				box(1, holds(1, 4, res(1, 2)), waits(1, 0), func(m *plan.Machine) { m.Cordoned = true }),
				box(2, holds(1, 4, res(1, 2)), waits(1, 0), func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }),
				box(3, holds(1, 4, res(1, 2)), waits(1, 0), func(m *plan.Machine) { m.Health, m.HealthReason = dspool.Unhealthy, testkit.Stated("disk full") }),
			}, job(1, "ada", 0, taking(50*time.Millisecond))),
			`recall 5: machine batch-1 is cordoned
			 recall 5: machine batch-2 is being drained
			 recall 5: machine batch-3 is unhealthy (disk full)`,
		},
		{
			"a reserved machine gives back what is ahead",
			snapshot(batch(one), []plan.Machine{box(1, holds(1, 4, res(1, 2)), waits(1, 0))},
				job(1, "ada", 0, taking(50*time.Millisecond)),
				job(2, "bob", 1, wants(res(4, 8)), func(j *plan.Job) { j.Created = ago(time.Hour) }), job(3, "bob", 1)),
			`recall 5: machine batch-1 is reserved for job 2 of bob
			 job 2: waits for room on machine batch-1, which is reserved for it
			 job 3: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"attempts ahead hold no room: running ones do, then those that fit",
			snapshot(batch(one), []plan.Machine{box(1, attempts(1, 1, res(3, 2), false, 0), holds(1, 2, res(1, 2)))}, job(1, "ada", 0), job(2, "ada", 3)),
			`place 2 of job 2 on batch-1: machine batch-1 has room
			 job 2: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine
			 wake in 2s`,
		},
		{
			"what fits comes before what is placed ahead, so that it has the lower identifiers",
			snapshot(batch(one), []plan.Machine{box(1)},
				job(1, "ada", 9, wants(res(1.5, 1)), taking(100*time.Millisecond), func(j *plan.Job) { j.MaxRunning = 3 }), job(2, "ada", 1, wants(res(1, 1)))),
			`place 2 of job 1 on batch-1: machine batch-1 has room
			 place 1 of job 2 on batch-1: machine batch-1 has room
			 place 1 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 100ms
			 job 1: 3 of at most 3 tasks run (max running)`,
		},
		{
			"no machine is created for tasks that will have run before it is ready",
			snapshot(batch(), full, job(1, "ada", 24, taking(50*time.Millisecond))),
			`place 20 of job 1 on batch-1: placed ahead on machine batch-1, where tasks of this job take about 50ms
			 create big in batch: job 1 of ada waits with 4 tasks of 1 cpu, 2 GiB
			 job 1: waits for a machine that is starting`,
		},
		{
			"nor where two users take turns with short tasks",
			snapshot(batch(), []plan.Machine{box(1, holds(1, 2, res(1, 2)), holds(2, 2, res(1, 2)))}, job(1, "ada", 5, taking(50*time.Millisecond)), job(2, "bob", 5, taking(50*time.Millisecond))),
			`job 1: waits for room on the machines where it runs: its tasks are short
			 job 2: waits for room on the machines where it runs: its tasks are short`,
		},
	})
}
