package plan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

func TestSeats(t *testing.T) {
	most := func(n int) func(*plan.Pool) { return func(p *plan.Pool) { p.Max = n } }
	per := func(n int) func(*plan.Pool) { return func(p *plan.Pool) { p.Policy.SessionsPerMachine = n } }
	small := func(s *plan.Session) { s.Request = res(0.5, 1) }
	deadline := now.Add(time.Hour)
	one, two := box(1), box(2)
	check(t, []rule{
		{
			"a machine where somebody is logged in comes before an empty one",
			with(snapshot(batch(), []plan.Machine{one, two}), guest(1, "ada", 9, on("batch-2")), guest(2, "bob", 1)),
			`seat 2 on batch-2 (1 cpu, 2 GiB): machine batch-2 has room: place 2 of 4
			 wake in 10m0s`,
		},
		{
			"of those the one with the fewest people, wherever they stand",
			with(snapshot(batch(), []plan.Machine{one, two}),
				guest(1, "ada", 9, on("batch-1")),
				guest(2, "bob", 9, on("batch-1"), func(s *plan.Session) { s.State = dspool.SessionClosing }),
				guest(3, "cyd", 9, on("batch-2"), func(s *plan.Session) { s.State = dspool.SessionPlaced }),
				guest(4, "dan", 1), guest(5, "eve", 1), guest(6, "fay", 1)),
			`seat 4 on batch-2 (1 cpu, 2 GiB): machine batch-2 has room: place 2 of 4
			 seat 5 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 3 of 4
			 seat 6 on batch-2 (1 cpu, 2 GiB): machine batch-2 has room: place 3 of 4`,
		},
		{
			"though there is more room on one in use by tasks",
			with(snapshot(batch(), []plan.Machine{box(1, holds(9, 1, res(1, 2))), two}), guest(1, "ada", 9, on("batch-2")), guest(2, "bob", 9, on("batch-2")), guest(3, "cyd", 1)),
			`seat 3 on batch-2 (1 cpu, 2 GiB): machine batch-2 has room: place 3 of 4`,
		},
		{
			"as long as it has a place, whatever room is left",
			with(snapshot(batch(per(2)), []plan.Machine{one, two}), guest(1, "ada", 9, on("batch-2"), small), guest(2, "bob", 9, on("batch-2"), small), guest(3, "cyd", 1)),
			`seat 3 on batch-1 (2 cpu, 4 GiB): machine batch-1 has room: place 1 of 2`,
		},
		{
			"then one in use by tasks, then one that nobody uses",
			with(snapshot(batch(per(2)), []plan.Machine{one, box(2, holds(9, 2, res(1, 2))), box(3, holds(9, 3, res(1, 2)))}), guest(1, "ada", 9), guest(2, "bob", 8)),
			`seat 1 on batch-2 (2 cpu, 4 GiB): machine batch-2 has room: place 1 of 2
			 seat 2 on batch-1 (2 cpu, 4 GiB): machine batch-1 has room: place 1 of 2`,
		},
		{
			"of empty machines one of the pool's first size, the one used last",
			with(snapshot(batch(func(p *plan.Pool) { p.Sizes = []dspool.Size{big, {Name: "small", Resources: res(1, 2)}} }), []plan.Machine{box(1, smallBox), box(2, idleFor(time.Minute)), box(3, idleFor(time.Second))}), guest(1, "ada", 9)),
			`seat 1 on batch-3 (1 cpu, 2 GiB): machine batch-3 has room: place 1 of 4
			 wake in 9m0s`,
		},
		{
			"a place is that part of its machine, in thousandths of a cpu and whole MiB",
			with(snapshot(batch(per(3)), []plan.Machine{box(1, func(m *plan.Machine) { m.Resources.GPUs = 7 })}), guest(1, "ada", 9)),
			`seat 1 on batch-1 (1.333 cpu, 2.7 GiB, 2 gpu): machine batch-1 has room: place 1 of 3`,
		},
		{
			"who came first is seated first, whatever the clock said, and the others are told their place in the queue",
			with(snapshot(batch(most(1), per(2)), []plan.Machine{one}), guest(1, "ada", 1), guest(2, "bob", 2), guest(3, "cyd", 2), guest(4, "dan", 3)),
			`seat 1 on batch-1 (2 cpu, 4 GiB): machine batch-1 has room: place 1 of 2
			 seat 2 on batch-1 (2 cpu, 4 GiB): machine batch-1 has room: place 2 of 2
			 session 3 is number 1: pool batch is at its max of 1 machine and every place is taken
			 session 4 is number 2: pool batch is at its max of 1 machine and every place is taken
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"only ready, healthy machines that nobody wants gone take people",
			with(snapshot(batch(most(6)), []plan.Machine{
				box(1, func(m *plan.Machine) { m.Cordoned = true }),
				box(2, holds(9, 1, res(1, 2)), func(m *plan.Machine) { m.DrainBy = &deadline }),
				box(3, func(m *plan.Machine) { m.Health = dspool.Unhealthy }, holds(9, 1, res(1, 1))),
				box(4, holds(9, 1, res(1, 2)), func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }),
				box(5, state(dspool.Destroying)),
				box(6, state(dspool.Stopped)),
			}), guest(1, "ada", 1)),
			`session 1 is number 1: pool batch is at its max of 6 machines: 1 cordoned, 2 draining, 1 unhealthy, 1 stopped, 1 being removed
			 note batch: pool batch is at its max of 6 machines
			 wake in 1h0m0s`,
		},
		{
			"people come before tasks, which get what is left",
			with(snapshot(batch(most(1)), []plan.Machine{one}, job(7, "bob", 4)), guest(1, "ada", 1)),
			`place 3 of job 7 on batch-1: machine batch-1 has room
			 seat 1 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 1 of 4
			 job 7: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"what runs is not displaced, but gets no successor until the person has a place",
			with(snapshot(batch(most(2), per(2)), []plan.Machine{box(1, holds(9, 4, res(1, 2))), box(2, holds(9, 3, res(1, 2)))}, job(9, "bob", 4, func(j *plan.Job) { j.TaskTime = time.Millisecond })), guest(1, "ada", 1)),
			`session 1 is number 1: pool batch is at its max of 2 machines; waits for tasks on machine batch-2 to end
			 job 9: machine batch-2 is kept for ada, who waits to log in
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"and what waits there ahead is asked back",
			with(snapshot(batch(most(1), per(2)), []plan.Machine{box(1, holds(9, 4, res(1, 2)), attempts(9, 1, res(1, 2), false, 0))}, job(9, "ada", 0)), guest(1, "ada", 1)),
			`recall 5: ada waits to log in
			 session 1 is number 1: pool batch is at its max of 1 machine; waits for tasks on machine batch-1 to end
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"only as many machines are kept as people need",
			with(snapshot(batch(most(2), per(2)), []plan.Machine{box(1, holds(9, 4, res(1, 2))), box(2, holds(9, 3, res(1, 2)))}, job(8, "bob", 1), job(9, "bob", 0)),
				guest(1, "ada", 1, on("batch-2"), small), guest(2, "bob", 1)),
			`session 2 is number 1: pool batch is at its max of 2 machines; waits for tasks on machine batch-2 to end
			 job 8: pool batch is at its max of 2 machines and all are busy
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"nor is one kept where there is no place even without its tasks",
			with(snapshot(batch(most(1), per(3)), []plan.Machine{box(1, holds(9, 1, res(0.3, 1)))}),
				guest(1, "ada", 9, on("batch-1"), func(s *plan.Session) { s.Request = res(2, 4) }), guest(2, "bob", 2), guest(3, "cyd", 1)),
			`seat 2 on batch-1 (1.333 cpu, 2.7 GiB): machine batch-1 has room: place 2 of 3
			 session 3 is number 1: pool batch is at its max of 1 machine and every place is taken
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"a big task that waited is not given that machine either",
			with(snapshot(batch(most(1), per(2)), []plan.Machine{box(1, holds(9, 3, res(1, 2)))},
				job(7, "bob", 1, wants(res(4, 8)), func(j *plan.Job) { j.Created = ago(time.Hour) }), job(8, "bob", 1), job(9, "bob", 0)), guest(1, "ada", 1)),
			`session 1 is number 1: pool batch is at its max of 1 machine; waits for tasks on machine batch-1 to end
			 job 7: pool batch is at its max of 1 machine and it is busy
			 job 8: machine batch-1 is kept for ada, who waits to log in
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"a session in a pool that is no more says so",
			with(snapshot(batch(), nil), guest(1, "ada", 1, func(s *plan.Session) { s.Pool = "lab" })),
			`session 1 is number 1: pool lab does not exist`,
		},
	})
}

func TestMachinesForPeople(t *testing.T) {
	crowd := func(n int) (list []plan.Session) {
		for i := range n {
			list = append(list, guest(int64(i+1), fmt.Sprintf("user%d", i+1), 100-i))
		}
		return list
	}
	change := func(s plan.Snapshot, f func(*plan.Snapshot)) plan.Snapshot { f(&s); return s }
	check(t, []rule{
		{
			"as many machines are created as those who wait need",
			with(snapshot(batch(), nil), crowd(5)...),
			`create big in batch: user1 and 3 others wait to log in
			 create big in batch: user5 waits to log in
			 session 1 is number 1: a machine is being created
			 session 2 is number 2: a machine is being created
			 session 3 is number 3: a machine is being created
			 session 4 is number 4: a machine is being created
			 session 5 is number 5: a machine is being created`,
		},
		{
			"those that are starting count, and are named",
			with(snapshot(batch(), []plan.Machine{box(3, state(dspool.Starting)), box(4, state(dspool.Creating))}), crowd(5)...),
			`session 1 is number 1: batch-3 is starting
			 session 2 is number 2: batch-3 is starting
			 session 3 is number 3: batch-3 is starting
			 session 4 is number 4: batch-3 is starting
			 session 5 is number 5: batch-4 is starting`,
		},
		{
			"people come before tasks there too, and share machines with them",
			with(snapshot(batch(func(p *plan.Pool) { p.Max = 2 }), nil, job(7, "zoe", 9)), crowd(2)...),
			`create big in batch: user1 and 1 other wait to log in
			 create big in batch: job 7 of zoe waits with 9 tasks of 1 cpu, 2 GiB
			 session 1 is number 1: a machine is being created
			 session 2 is number 2: a machine is being created
			 job 7: waits for 2 machines that are starting
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"an image that is not built holds people up and is named",
			with(snapshot(batch(func(p *plan.Pool) { p.Blocked = testkit.Stated("image UbuntuDSVM is being built") }), nil), crowd(1)...),
			`session 1 is number 1: image UbuntuDSVM is being built
			 note batch: image UbuntuDSVM is being built`,
		},
		{
			"so does a back-off, with its countdown",
			with(snapshot(batch(func(p *plan.Pool) {
				p.LastFailure, p.BackoffUntil = testkit.Stated("no space left"), now.Add(7500*time.Millisecond)
			}), nil), crowd(1)...),
			`session 1 is number 1: creating machines failed: no space left; next try in 8s
			 note batch: creating machines failed: no space left; next try in 8s
			 wake in 7.5s`,
		},
		{
			"after it one machine is tried",
			with(snapshot(batch(func(p *plan.Pool) { p.LastFailure = testkit.Stated("no space left") }), nil), crowd(5)...),
			`create big in batch: user1 and 3 others wait to log in
			 session 1 is number 1: a machine is being created
			 session 2 is number 2: a machine is being created
			 session 3 is number 3: a machine is being created
			 session 4 is number 4: a machine is being created
			 session 5 is number 5: creating machines failed: no space left; one machine is tried first
			 note batch: creating machines failed: no space left; one machine is tried first`,
		},
		{
			"full hosts are named",
			change(with(snapshot(batch(), []plan.Machine{box(1)}), guest(1, "ada", 9, on("batch-1"), func(s *plan.Session) { s.Request = res(4, 8) }), guest(2, "bob", 1)),
				func(s *plan.Snapshot) { s.Capacity = res(4, 64) }),
			`session 2 is number 1: the hosts have no room for another machine of size big: 4 of 4 cpus are taken
			 note batch: the hosts have no room for another machine of size big: 4 of 4 cpus are taken`,
		},
		{
			"idle machines of other pools make room for a pool's first machine",
			change(with(snapshot(batch(), []plan.Machine{box(1, func(m *plan.Machine) { m.Pool = "lab" })}), guest(1, "ada", 1)),
				func(s *plan.Snapshot) {
					s.MaxMachines, s.Pools = 1, append(s.Pools, batch(func(p *plan.Pool) { p.Name = "lab" }))
				}),
			`destroy batch-1: makes room for a machine of size big in pool batch, for which ada waits
			 session 1 is number 1: the provider can have at most 1 machine
			 note batch: the provider can have at most 1 machine
			 wake in 10m0s`,
		},
		{
			"a taken spare is replaced, one with a place beside somebody is not taken",
			with(snapshot(batch(func(p *plan.Pool) { p.Spare = 1 }), []plan.Machine{box(1)}), crowd(4)...),
			`create big in batch: pool batch keeps 1 machine without claims (spare)
			 seat 1 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 1 of 4
			 seat 2 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 2 of 4
			 seat 3 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 3 of 4
			 seat 4 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 4 of 4`,
		},
		{
			"sessions of every state hold their part, so that tasks do not get it",
			with(snapshot(batch(func(p *plan.Pool) { p.Max = 1 }), []plan.Machine{box(1)}, job(7, "zoe", 9)),
				guest(1, "ada", 9, on("batch-1"), func(s *plan.Session) { s.State = dspool.SessionPlaced }),
				guest(2, "bob", 9, on("batch-1")),
				guest(3, "cyd", 9, on("batch-1"), func(s *plan.Session) { s.State = dspool.SessionClosing }),
				guest(4, "dan", 9, on("batch-1"), func(s *plan.Session) { s.State = dspool.SessionClosed })),
			`place 1 of job 7 on batch-1: machine batch-1 has room
			 job 7: pool batch is at its max of 1 machine and it is busy
			 note batch: pool batch is at its max of 1 machine`,
		},
	})
}

func TestClose(t *testing.T) {
	keep := func(d time.Duration) func(*plan.Session) {
		return func(s *plan.Session) { s.KeepUntil = now.Add(d) }
	}
	quick := func(p *plan.Pool) { p.Policy.SessionIdle = dspool.Duration(90 * time.Second) }
	open := func(id int64, idle time.Duration, change ...func(*plan.Session)) plan.Session {
		return guest(id, "ada", 1, append([]func(*plan.Session){left("batch-1", idle)}, change...)...)
	}
	check(t, []rule{
		{
			"where nobody was connected and nothing lived for an hour, a session ends",
			with(snapshot(batch(), []plan.Machine{box(1)}), open(1, time.Hour), open(2, time.Hour-time.Minute)),
			`close 1: nobody was connected and nothing of it lived for 1h
			 wake in 1m0s`,
		},
		{
			"or for the time that the pool says",
			with(snapshot(batch(quick), []plan.Machine{box(1)}), open(1, 2*time.Minute), open(2, time.Minute)),
			`close 1: nobody was connected and nothing of it lived for 1m30s
			 wake in 30s`,
		},
		{
			"what is connected, alive, kept, being made ready or just made is not closed",
			with(snapshot(batch(quick), []plan.Machine{box(1)}),
				open(1, 99*time.Hour, func(s *plan.Session) { s.Connections = 1 }),
				open(2, 99*time.Hour, func(s *plan.Session) { s.Active = true }),
				open(3, 99*time.Hour, keep(5*time.Minute)),
				open(4, 99*time.Hour, func(s *plan.Session) { s.State = dspool.SessionPlaced }),
				open(5, 99*time.Hour, func(s *plan.Session) { s.State = dspool.SessionClosing }),
				open(6, 99*time.Hour, func(s *plan.Session) { s.LastActive, s.Since = time.Time{}, now })),
			`wake in 1m30s`,
		},
		{
			"however short the pool's time, the agent has looked twice before",
			with(snapshot(batch(func(p *plan.Pool) { p.Policy.SessionIdle = 1 }), []plan.Machine{box(1)}), open(1, 15*time.Second), open(2, 14*time.Second)),
			`close 1: nobody was connected and nothing of it lived for 15s
			 wake in 1s`,
		},
		{
			"nothing ends on a machine whose agent is not heard",
			with(snapshot(batch(quick), []plan.Machine{box(1, func(m *plan.Machine) { m.Health = dspool.Unhealthy })}), open(1, 99*time.Hour)),
			``,
		},
		{
			"once nobody keeps it any more it is",
			with(snapshot(batch(quick), []plan.Machine{box(1)}), open(1, 99*time.Hour, keep(0)), open(2, 99*time.Hour, func(s *plan.Session) { s.Pool = "gone" })),
			`close 1: nobody was connected and nothing of it lived for 1m30s
			 close 2: nobody was connected and nothing of it lived for 1h`,
		},
		{
			"nor is one whose app has not begun, or runs for ever",
			with(snapshot(batch(quick), []plan.Machine{box(1)}),
				open(1, 99*time.Hour, func(s *plan.Session) { s.Awaited = true }),
				open(2, 99*time.Hour, func(s *plan.Session) { s.Kept = true })),
			``,
		},
		{
			"but what runs for ever leaves a machine that somebody wants gone, unless somebody is there",
			with(snapshot(batch(quick), []plan.Machine{box(1, func(m *plan.Machine) { m.Remove, m.Cordoned = testkit.Stated("drained by root"), true })}),
				open(1, time.Second, func(s *plan.Session) { s.Kept, s.Active = true, true }),
				open(2, time.Second, func(s *plan.Session) { s.Kept, s.Connections = true, 1 }),
				open(3, time.Second, func(s *plan.Session) { s.Awaited = true })),
			`close 1: its machine is to go; it begins anew on the next`,
		},
		{
			"who waits for an app is seated like who logs in",
			with(snapshot(batch(), []plan.Machine{box(1)}), guest(1, "ada", 1, func(s *plan.Session) { s.Connections, s.Awaited = 0, true })),
			`seat 1 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 1 of 4`,
		},
		{
			"a session for which nobody waits is closed, and takes no machine",
			with(snapshot(batch(), []plan.Machine{box(1)}), guest(1, "ada", 1, func(s *plan.Session) { s.Connections = 0 }), guest(2, "bob", 1, func(s *plan.Session) { s.Connections, s.Pool = 0, "gone" })),
			`close 1: nobody waits for it any more
			 close 2: nobody waits for it any more
			 wake in 10m0s`,
		},
	})
}

func TestMachinesOfRoots(t *testing.T) {
	roots := func(p *plan.Pool) { p.Policy.Sudo, p.Policy.SessionsPerMachine = true, 1 }
	used := func(m *plan.Machine) { m.Used = true }
	check(t, []rule{
		{
			"a machine on which somebody was root goes at once, and nobody else gets it",
			with(snapshot(batch(roots), []plan.Machine{box(1, used)}), guest(1, "bob", 1)),
			`create big in batch: bob waits to log in
			 destroy batch-1: somebody was root here, and nobody else gets it; nothing is left on it
			 session 1 is number 1: a machine is being created`,
		},
		{
			"one that nobody has used is given",
			with(snapshot(batch(roots), []plan.Machine{box(1)}), guest(1, "bob", 1)),
			`seat 1 on batch-1 (4 cpu, 8 GiB): machine batch-1 has room: place 1 of 1`,
		},
		{
			"where nobody becomes root, a used machine is as good as new",
			with(snapshot(batch(), []plan.Machine{box(1, used)}), guest(1, "bob", 1)),
			`seat 1 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 1 of 4`,
		},
	})
}

func TestMachinesWithSessionsStay(t *testing.T) {
	in := func(d time.Duration) func(*plan.Machine) {
		return func(m *plan.Machine) { at := now.Add(d); m.DrainBy = &at }
	}
	remove := func(m *plan.Machine) { m.Remove = testkit.Stated("removed by root") }
	check(t, []rule{
		{
			"a machine with a session is not idle, though nobody is connected",
			with(snapshot(batch(), []plan.Machine{box(1, idleFor(time.Hour)), box(2, idleFor(time.Hour))}), guest(1, "ada", 1, left("batch-1", 0))),
			`destroy batch-2: idle for 1h, the limit is 10m
			 wake in 1h0m0s`,
		},
		{
			"nor is it in the way when the pool is over its max",
			with(snapshot(batch(func(p *plan.Pool) { p.Max = 1 }), []plan.Machine{box(1), box(2)}), guest(1, "ada", 1, on("batch-1")), guest(2, "bob", 1, on("batch-2"))),
			``,
		},
		{
			"a removed or drained machine goes when the last session is gone",
			with(snapshot(batch(), []plan.Machine{box(1, remove), box(2, in(time.Minute)), box(3, remove), box(4, in(time.Minute))}),
				guest(1, "ada", 1, on("batch-1")), guest(2, "bob", 1, on("batch-2"), func(s *plan.Session) { s.State = dspool.SessionClosing })),
			`destroy batch-3: removed by root; nothing is left on it
			 destroy batch-4: drained; nothing is left on it
			 wake in 1m0s`,
		},
		{
			"or at its deadline, with what is on it",
			with(snapshot(batch(), []plan.Machine{box(1, in(0)), box(2, in(0), holds(9, 2, res(1, 1)))}),
				guest(1, "ada", 1, on("batch-1")), guest(2, "bob", 1, on("batch-1")), guest(3, "cyd", 1, on("batch-2"))),
			`destroy batch-1: drained; its deadline has passed with 2 sessions on it
			 destroy batch-2: drained; its deadline has passed with 2 tasks and 1 session on it`,
		},
		{
			"machines of a pool that is no more wait for their people",
			with(plan.Snapshot{Machines: []plan.Machine{box(1), box(2)}}, guest(1, "ada", 1, on("batch-2"))),
			`destroy batch-1: pool batch is no more; nothing is left on it`,
		},
	})
}

func TestPlacesAreWholeMiB(t *testing.T) {
	t.Parallel()
	s := with(snapshot(batch(func(p *plan.Pool) { p.Policy.SessionsPerMachine = 3 }), []plan.Machine{box(1)}), guest(1, "ada", 1))
	want := dspool.Resources{CPUs: 1.333, Memory: 2730 << 20}
	if seats := plan.Compute(s, now).Seat; len(seats) != 1 || seats[0].Request != want {
		t.Errorf("a third of 4 cpu, 8 GiB is %+v, want %+v", seats, want)
	}
}
