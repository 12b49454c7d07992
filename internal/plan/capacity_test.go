package plan_test

import (
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

func TestCapacity(t *testing.T) {
	with := func(s plan.Snapshot, change func(*plan.Snapshot)) plan.Snapshot { change(&s); return s }
	failing := func(d time.Duration) func(*plan.Pool) {
		return func(p *plan.Pool) { p.LastFailure, p.BackoffUntil = testkit.Stated("no space left"), now.Add(d) }
	}
	mixed := func(p *plan.Pool) { p.Sizes = []dspool.Size{small, big} }
	lab := func(p *plan.Pool) { p.Name = "lab" }
	inLab := func(m *plan.Machine) { m.Pool, m.Name = "lab", "lab"+m.Name[len("batch"):] }
	check(t, []rule{
		{
			"as many machines are created as the tasks need",
			snapshot(batch(), nil, job(7, "ada", 9)),
			`create big in batch: job 7 of ada waits with 9 tasks of 1 cpu, 2 GiB
			 create big in batch: job 7 of ada waits with 9 tasks of 1 cpu, 2 GiB
			 create big in batch: job 7 of ada waits with 9 tasks of 1 cpu, 2 GiB
			 job 7: waits for 3 machines that are starting`,
		},
		{
			"and no more than max",
			snapshot(batch(func(p *plan.Pool) { p.Max = 2 }), []plan.Machine{box(1, state(dspool.Destroying))}, job(7, "ada", 1_000_000)),
			`create big in batch: job 7 of ada waits with 1000000 tasks of 1 cpu, 2 GiB
			 job 7: waits for a machine that is starting
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"machines that are coming count as room",
			snapshot(batch(), []plan.Machine{box(1, state(dspool.Creating)), box(2, state(dspool.Starting))}, job(7, "ada", 5), job(8, "bob", 3)),
			`job 7: waits for 2 machines that are starting
			 job 8: waits for 2 machines that are starting`,
		},
		{
			"small jobs share the machine that is created for them",
			snapshot(batch(), nil, job(1, "ada", 1), job(2, "bob", 1), job(3, "cyd", 1), job(4, "dan", 2)),
			`create big in batch: job 1 of ada waits with 1 task of 1 cpu, 2 GiB
			 create big in batch: job 4 of dan waits with 2 tasks of 1 cpu, 2 GiB
			 job 1: waits for a machine that is starting
			 job 2: waits for a machine that is starting
			 job 3: waits for a machine that is starting
			 job 4: waits for 2 machines that are starting`,
		},
		{
			"coming machines that are cordoned, drained or removed are no room",
			snapshot(batch(), []plan.Machine{box(1, state(dspool.Starting), func(m *plan.Machine) { m.Cordoned = true })}, job(7, "ada", 1)),
			`create big in batch: job 7 of ada waits with 1 task of 1 cpu, 2 GiB
			 job 7: waits for a machine that is starting`,
		},
		{
			"the size is the job's, or the first that one task fits",
			snapshot(batch(mixed), nil, job(1, "ada", 1, func(j *plan.Job) { j.Size = "big" }), job(2, "bob", 1, wants(res(2, 2))), job(3, "cyd", 1, wants(res(1, 1)))),
			`create big in batch: job 1 of ada waits with 1 task of 1 cpu, 2 GiB
			 job 1: waits for a machine that is starting
			 job 2: waits for a machine that is starting
			 job 3: waits for a machine that is starting`,
		},
		{
			"the first size is created where it is enough",
			snapshot(batch(mixed), nil, job(1, "ada", 2)),
			`create small in batch: job 1 of ada waits with 2 tasks of 1 cpu, 2 GiB
			 create small in batch: job 1 of ada waits with 2 tasks of 1 cpu, 2 GiB
			 job 1: waits for 2 machines that are starting`,
		},
		{
			"the hosts' cpus bound what is created",
			with(snapshot(batch(), []plan.Machine{box(1, holds(9, 4, res(1, 2))), box(2, holds(9, 4, res(1, 2)))}, job(7, "ada", 4), job(9, "ada", 0)), func(s *plan.Snapshot) { s.Capacity = res(8, 64) }),
			`job 7: the hosts have no room for another machine of size big: 8 of 8 cpus are taken
			 note batch: the hosts have no room for another machine of size big: 8 of 8 cpus are taken`,
		},
		{
			"so does their memory, and machines on their way out still hold theirs",
			with(snapshot(batch(), []plan.Machine{box(1, state(dspool.Destroying))}, job(7, "ada", 4)), func(s *plan.Snapshot) { s.Capacity = res(100, 15) }),
			`job 7: the hosts have no room for another machine of size big: 8 GiB of 15 GiB memory are taken
			 note batch: the hosts have no room for another machine of size big: 8 GiB of 15 GiB memory are taken`,
		},
		{
			"a size larger than the hosts says so",
			with(snapshot(batch(), nil, job(7, "ada", 4)), func(s *plan.Snapshot) { s.Capacity = res(2, 64) }),
			`job 7: a machine of size big (4 cpu, 8 GiB) is larger than the hosts (2 cpu, 64 GiB)
			 note batch: a machine of size big (4 cpu, 8 GiB) is larger than the hosts (2 cpu, 64 GiB)`,
		},
		{
			"the provider's limit counts all pools",
			with(snapshot(batch(), []plan.Machine{box(1, inLab, holds(9, 1, res(1, 1)))}, job(7, "ada", 4)), func(s *plan.Snapshot) {
				s.MaxMachines, s.Pools = 1, append(s.Pools, batch(lab))
			}),
			`job 7: the provider can have at most 1 machine
			 note batch: the provider can have at most 1 machine`,
		},
		{
			"a blocked pool creates nothing and says why, but uses what it has",
			snapshot(batch(func(p *plan.Pool) { p.Blocked, p.Min = testkit.Stated("image UbuntuDSVM is being built"), 2 }), []plan.Machine{box(1)}, job(7, "ada", 5)),
			`place 4 of job 7 on batch-1: machine batch-1 has room
			 job 7: image UbuntuDSVM is being built
			 note batch: image UbuntuDSVM is being built`,
		},
		{
			"after a failure nothing is created until the back-off passes",
			snapshot(batch(failing(7500*time.Millisecond)), nil, job(7, "ada", 5)),
			`job 7: creating machines failed: no space left; next try in 8s
			 note batch: creating machines failed: no space left; next try in 8s
			 wake in 7.5s`,
		},
		{
			"then one machine is tried",
			snapshot(batch(failing(0)), nil, job(7, "ada", 8), job(8, "bob", 8)),
			`create big in batch: job 7 of ada waits with 8 tasks of 1 cpu, 2 GiB
			 job 7: waits for a machine that is starting
			 job 8: waits for a machine that is starting
			 note batch: creating machines failed: no space left; one machine is tried first`,
		},
		{
			"and no other while it starts",
			snapshot(batch(failing(0), func(p *plan.Pool) { p.Min = 3 }), []plan.Machine{box(1, state(dspool.Starting))}, job(7, "ada", 2), job(8, "bob", 2, wants(res(4, 1)))),
			`job 7: waits for a machine that is starting
			 job 8: creating machines failed: no space left; one machine is tried first
			 note batch: creating machines failed: no space left; one machine is tried first`,
		},
		{
			"min and spare are kept",
			snapshot(batch(func(p *plan.Pool) { p.Min, p.Spare = 2, 1 }), []plan.Machine{box(1, holds(9, 1, res(1, 1)))}, job(9, "ada", 0)),
			`create big in batch: pool batch keeps at least 2 machines (min)`,
		},
		{
			"spare machines come on top of those that tasks wait for",
			snapshot(batch(func(p *plan.Pool) { p.Min, p.Spare = 1, 2 }), nil, job(1, "ada", 4)),
			`create big in batch: job 1 of ada waits with 4 tasks of 1 cpu, 2 GiB
			 create big in batch: pool batch keeps 2 machines without claims (spare)
			 create big in batch: pool batch keeps 2 machines without claims (spare)
			 job 1: waits for a machine that is starting`,
		},
		{
			"a sick or cordoned machine counts for neither",
			snapshot(batch(func(p *plan.Pool) { p.Min = 1 }), []plan.Machine{box(1, func(m *plan.Machine) { m.Health = dspool.Unhealthy }), box(2, func(m *plan.Machine) { m.Cordoned = true })}),
			`create big in batch: pool batch keeps at least 1 machine (min)
			 wake in 10m0s`,
		},
		{
			"what another pool needs for its min is left to it",
			with(snapshot(batch(), nil, job(1, "ada", 100)), func(s *plan.Snapshot) {
				s.Capacity, s.Pools = res(8, 64), append(s.Pools, batch(lab, func(p *plan.Pool) { p.Min = 1 }))
			}),
			`create big in batch: job 1 of ada waits with 100 tasks of 1 cpu, 2 GiB
			 create big in lab: pool lab keeps at least 1 machine (min)
			 job 1: waits for a machine that is starting
			 note batch: the hosts have no room for another machine of size big: 8 of 8 cpus are taken`,
		},
		{
			"an idle machine of a size that does not fit makes room in a full pool, even below min",
			snapshot(batch(mixed, func(p *plan.Pool) { p.Max, p.Min = 2, 2 }), []plan.Machine{box(1, smallBox), box(2, smallBox, idleFor(time.Minute))}, job(1, "ada", 8, wants(res(4, 4)))),
			`destroy batch-2: makes room for a machine of size big in pool batch, for which job 1 of ada waits
			 job 1: pool batch is at its max of 2 machines: 1 of a size that does not fit, 1 being removed
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"one at a time",
			snapshot(batch(mixed, func(p *plan.Pool) { p.Max, p.Min = 2, 2 }), []plan.Machine{box(1, smallBox), box(2, smallBox, state(dspool.Destroying))}, job(1, "ada", 8, wants(res(4, 4)))),
			`job 1: pool batch is at its max of 2 machines: 1 of a size that does not fit, 1 being removed
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"idle machines of other pools beyond min and spare make room for a pool's first machine",
			with(snapshot(batch(), []plan.Machine{box(1, inLab), box(2, inLab, idleFor(time.Minute))}, job(1, "ada", 1)), func(s *plan.Snapshot) {
				s.Capacity, s.Pools = res(8, 16), append(s.Pools, batch(lab, func(p *plan.Pool) { p.Min = 1 }))
			}),
			`destroy lab-2: makes room for a machine of size big in pool batch, for which job 1 of ada waits
			 job 1: the hosts have no room for another machine of size big: 8 of 8 cpus are taken
			 note batch: the hosts have no room for another machine of size big: 8 of 8 cpus are taken
			 wake in 9m0s`,
		},
		{
			"but not where that would not be enough",
			with(snapshot(batch(), []plan.Machine{box(1, inLab, smallBox)}, job(1, "ada", 1)), func(s *plan.Snapshot) {
				s.Capacity, s.Pools = res(4, 16), append(s.Pools, batch(lab), batch(func(p *plan.Pool) { p.Name = "other" }))
				s.Machines = append(s.Machines, plan.Machine{Name: "other-1", Pool: "other", Size: "small", Resources: small.Resources, State: dspool.Ready, Health: dspool.Healthy,
					Attempts: []plan.Attempt{{ID: 1, Job: 9, Request: res(1, 1), Running: true, Since: now}}})
			}),
			`job 1: the hosts have no room for another machine of size big: 2 of 4 cpus are taken
			 note batch: the hosts have no room for another machine of size big: 2 of 4 cpus are taken
			 wake in 10m0s`,
		},
	})
}

func TestIdleAndDrain(t *testing.T) {
	in := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	check(t, []rule{
		{
			"an idle machine goes after its time",
			snapshot(batch(), []plan.Machine{box(1, idleFor(10*time.Minute)), box(2, idleFor(10*time.Minute-time.Second)), box(3, idleFor(754500*time.Millisecond))}),
			`destroy batch-3: idle for 12m34s, the limit is 10m
			 destroy batch-1: idle for 10m, the limit is 10m
			 wake in 1s`,
		},
		{
			"min and spare stay, the longest idle go",
			snapshot(batch(func(p *plan.Pool) { p.Min, p.Spare = 2, 1 }), []plan.Machine{box(1, idleFor(time.Hour)), box(2, idleFor(2*time.Hour)), box(3, idleFor(3*time.Hour)), box(4, holds(9, 1, res(1, 1)))}),
			`destroy batch-3: idle for 3h, the limit is 10m
			 destroy batch-2: idle for 2h, the limit is 10m`,
		},
		{
			"a machine with an attempt, a cordoned one and one that tasks wait for stay",
			snapshot(batch(), []plan.Machine{
				box(1, idleFor(time.Hour), attempts(9, 1, res(1, 1), false, 0)),
				box(2, idleFor(time.Hour), func(m *plan.Machine) { m.Cordoned = true }),
				box(3, idleFor(time.Hour)),
			}, job(7, "ada", 1, wants(res(4, 1)))),
			`place 1 of job 7 on batch-3: machine batch-3 has room`,
		},
		{
			"a sick machine goes when idle, though the pool has a min",
			snapshot(batch(func(p *plan.Pool) { p.Min = 1 }), []plan.Machine{box(1, idleFor(time.Hour)), box(2, idleFor(time.Hour), func(m *plan.Machine) { m.Health, m.HealthReason = dspool.Unhealthy, testkit.Stated("disk full") })}),
			`destroy batch-2: idle for 1h, the limit is 10m, and unhealthy (disk full)`,
		},
		{
			"beyond max, idle machines go at once and the others stay",
			snapshot(batch(func(p *plan.Pool) { p.Max = 1 }), []plan.Machine{box(1, holds(9, 1, res(1, 1))), box(2, idleFor(time.Second)), box(3, state(dspool.Creating)), box(4, holds(9, 1, res(1, 1)))}, job(7, "ada", 1, wants(res(4, 4)))),
			`destroy batch-3: pool batch has more machines than its max of 1
			 destroy batch-2: pool batch has more machines than its max of 1
			 job 7: pool batch is at its max of 1 machine: 2 busy, 2 being removed
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"a removed machine goes once nothing is left on it",
			snapshot(batch(), []plan.Machine{
				box(1, func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }),
				box(2, func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }, holds(9, 1, res(1, 1))),
				box(3, func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }, state(dspool.Creating)),
				box(4, func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }, state(dspool.Destroying)),
			}),
			`destroy batch-1: removed by root; nothing is left on it
			 destroy batch-3: removed by root; nothing is left on it`,
		},
		{
			"or its deadline has passed",
			snapshot(batch(), []plan.Machine{
				box(1, func(m *plan.Machine) { m.DrainBy = in(time.Minute) }),
				box(2, func(m *plan.Machine) { m.DrainBy = in(time.Minute) }, holds(9, 1, res(1, 1))),
				box(3, func(m *plan.Machine) { m.DrainBy = in(0) }, holds(9, 2, res(1, 1))),
				box(4, func(m *plan.Machine) { m.DrainBy, m.Remove = in(-time.Minute), testkit.Stated("removed by root") }, holds(9, 1, res(1, 1))),
			}),
			`destroy batch-1: drained; nothing is left on it
			 destroy batch-3: drained; its deadline has passed with 2 tasks on it
			 destroy batch-4: removed by root; its deadline has passed with 1 task on it
			 wake in 1m0s`,
		},
		{
			"machines of a pool that is no more go once they are empty",
			plan.Snapshot{Machines: []plan.Machine{box(1), box(2, holds(9, 1, res(1, 1)))}},
			`destroy batch-1: pool batch is no more; nothing is left on it`,
		},
		{
			"machines that have ended are not looked at",
			snapshot(batch(), []plan.Machine{box(1, state(dspool.Gone)), box(2, state(dspool.Failed), func(m *plan.Machine) { m.Remove = testkit.Stated("x") })}),
			``,
		},
	})
}
