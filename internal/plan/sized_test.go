package plan_test

import (
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
)

// asks has a session ask for a size of machine.
func asks(size string) func(*plan.Session) { return func(s *plan.Session) { s.Size = size } }

func TestSizesThatPeopleAskFor(t *testing.T) {
	mixed := func(change ...func(*plan.Pool)) plan.Pool {
		return batch(append([]func(*plan.Pool){func(p *plan.Pool) { p.Sizes, p.Policy.SessionsPerMachine = []dspool.Size{small, big}, 1 }}, change...)...)
	}
	most := func(n int) func(*plan.Pool) { return func(p *plan.Pool) { p.Max = n } }
	per := func(n int) func(*plan.Pool) { return func(p *plan.Pool) { p.Policy.SessionsPerMachine = n } }
	host := func(s plan.Snapshot, r dspool.Resources) plan.Snapshot { s.Capacity = r; return s }
	check(t, []rule{
		{
			"a machine of another size has no place, whoever is on it",
			with(snapshot(mixed(per(4)), []plan.Machine{box(1, smallBox)}), guest(1, "ada", 9, on("batch-1")), guest(2, "bob", 1, asks("big"))),
			`create big in batch: bob waits to log in
			 session 2 is number 1: a machine is being created`,
		},
		{
			"one of that size has, also where another would come first",
			with(snapshot(mixed(per(4)), []plan.Machine{box(1, smallBox), box(2)}), guest(1, "ada", 9, on("batch-1")), guest(2, "bob", 1, asks("big"))),
			`seat 2 on batch-2 (1 cpu, 2 GiB): machine batch-2 has room: place 1 of 4`,
		},
		{
			"who asks for nothing takes what there is, in turn with the others",
			with(snapshot(mixed(), []plan.Machine{box(1, smallBox), box(2), box(3)}), guest(1, "ada", 9), guest(2, "bob", 8, asks("big")), guest(3, "cyd", 7), guest(4, "dan", 6, asks("small"))),
			`create small in batch: dan waits to log in
			 seat 1 on batch-1 (1 cpu, 2 GiB): machine batch-1 has room: place 1 of 1
			 seat 2 on batch-2 (4 cpu, 8 GiB): machine batch-2 has room: place 1 of 1
			 seat 3 on batch-3 (4 cpu, 8 GiB): machine batch-3 has room: place 1 of 1
			 session 4 is number 1: a machine is being created`,
		},
		{
			"who came first to a size is seated first, and nobody behind waits for them who wants another",
			with(snapshot(mixed(most(2)), []plan.Machine{box(1), box(2, smallBox)}),
				guest(1, "ada", 9, asks("big"), on("batch-1")), guest(2, "bob", 8, asks("big")), guest(3, "cyd", 7, asks("small")), guest(4, "dan", 6, asks("big"))),
			`seat 3 on batch-2 (1 cpu, 2 GiB): machine batch-2 has room: place 1 of 1
			 session 2 is number 1: waits for a machine of size big; pool batch is at its max of 2 machines: 1 busy, 1 of another size
			 session 4 is number 2: waits for a machine of size big; pool batch is at its max of 2 machines: 1 busy, 1 of another size
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"the place of a machine that is starting is given to who came first",
			with(snapshot(mixed(), []plan.Machine{box(1, state(dspool.Starting))}), guest(1, "ada", 9, asks("big")), guest(2, "bob", 8)),
			`create small in batch: bob waits to log in
			 session 1 is number 1: batch-1 is starting
			 session 2 is number 2: a machine is being created`,
		},
		{
			"only machines of that size that are coming count, and newcomers share them",
			with(snapshot(mixed(per(2)), []plan.Machine{box(1, smallBox, state(dspool.Starting)), box(2, state(dspool.Creating))}),
				guest(1, "ada", 9, asks("big")), guest(2, "bob", 8, asks("big")), guest(3, "cyd", 7, asks("big")), guest(4, "dan", 6), guest(5, "eve", 5), guest(6, "fay", 4)),
			`create big in batch: cyd and 1 other wait to log in
			 session 1 is number 1: batch-2 is starting
			 session 2 is number 2: batch-2 is starting
			 session 3 is number 3: a machine is being created
			 session 4 is number 4: batch-1 is starting
			 session 5 is number 5: batch-1 is starting
			 session 6 is number 6: a machine is being created`,
		},
		{
			"in a full pool an idle machine of another size makes room at once",
			with(snapshot(mixed(most(2)), []plan.Machine{box(1, smallBox, idleFor(time.Minute)), box(2, smallBox)}), guest(1, "ada", 9, asks("big"))),
			`destroy batch-1: makes room for a machine of size big in pool batch, for which ada waits
			 session 1 is number 1: waits for a machine of size big; pool batch is at its max of 2 machines: 1 of another size, 1 being removed
			 note batch: pool batch is at its max of 2 machines
			 wake in 9m0s`,
		},
		{
			"but not where the hosts would have no room all the same",
			host(with(snapshot(mixed(most(2)), []plan.Machine{box(1, smallBox), box(2)}), guest(1, "ada", 9, on("batch-2")), guest(2, "bob", 8, asks("big"))), res(6, 64)),
			`session 2 is number 1: waits for a machine of size big; pool batch is at its max of 2 machines: 1 busy, 1 of another size
			 note batch: pool batch is at its max of 2 machines
			 wake in 10m0s`,
		},
		{
			"it makes room also where tasks could use it",
			with(snapshot(mixed(most(1)), []plan.Machine{box(1, smallBox)}, job(7, "zoe", 1)), guest(1, "ada", 9, asks("big"))),
			`destroy batch-1: makes room for a machine of size big in pool batch, for which ada waits
			 session 1 is number 1: waits for a machine of size big; pool batch is at its max of 1 machine: 1 being removed
			 job 7: machine batch-1 is kept for ada, who waits to log in
			 note batch: pool batch is at its max of 1 machine
			 wake in 10m0s`,
		},
		{
			"one at a time, and the rest goes on with its tasks",
			with(snapshot(mixed(most(2)), []plan.Machine{box(1, smallBox), box(2, smallBox, state(dspool.Destroying))}, job(7, "zoe", 1)), guest(1, "ada", 9, asks("big"))),
			`place 1 of job 7 on batch-1: machine batch-1 has room
			 session 1 is number 1: waits for a machine of size big; pool batch is at its max of 2 machines: 1 of another size, 1 being removed
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"where all have tasks, one gets no more of them, and is asked for nobody's place ahead",
			with(snapshot(mixed(most(2)), []plan.Machine{box(1, smallBox, holds(9, 1, res(1, 2)), attempts(9, 1, res(1, 2), false, 0)), box(2, smallBox, holds(9, 1, res(0.5, 1)), attempts(9, 1, res(1, 2), false, 0))},
				job(8, "zoe", 1, wants(res(0.5, 1))), job(9, "zoe", 0)), guest(1, "ada", 9, asks("big"))),
			`recall 2: ada waits to log in
			 session 1 is number 1: pool batch is at its max of 2 machines; waits for tasks on machine batch-2 to end
			 job 8: machine batch-2 is kept for ada, who waits to log in
			 note batch: pool batch is at its max of 2 machines
			 wake in 2s`,
		},
		{
			"a machine of that size that has tasks is kept before one of another",
			with(snapshot(mixed(most(2)), []plan.Machine{box(1, holds(9, 3, res(1, 2))), box(2, smallBox, holds(9, 1, res(0.5, 1)))}, job(8, "zoe", 1, wants(res(0.5, 1)))), guest(1, "ada", 9, asks("big"))),
			`place 1 of job 8 on batch-2: machine batch-2 has room
			 session 1 is number 1: pool batch is at its max of 2 machines; waits for tasks on machine batch-1 to end
			 note batch: pool batch is at its max of 2 machines`,
		},
		{
			"people stay, whatever size others wait for",
			with(snapshot(mixed(most(1)), []plan.Machine{box(1, smallBox)}), guest(1, "ada", 9, on("batch-1")), guest(2, "bob", 8, asks("big"))),
			`session 2 is number 1: waits for a machine of size big; pool batch is at its max of 1 machine: 1 of another size
			 note batch: pool batch is at its max of 1 machine`,
		},
		{
			"what the hosts have left is kept for who came first",
			host(with(snapshot(mixed(), []plan.Machine{box(1)}), guest(1, "ada", 9, on("batch-1")), guest(2, "bob", 8, asks("big")), guest(3, "cyd", 7, asks("small"))), res(6, 64)),
			`session 2 is number 1: the hosts have no room for another machine of size big: 4 of 6 cpus are taken
			 session 3 is number 2: the hosts have no room for another machine of size small: the rest is kept for bob, who waits for one of size big
			 note batch: the hosts have no room for another machine of size big: 4 of 6 cpus are taken`,
		},
		{
			"but not what that machine would leave",
			host(with(snapshot(mixed(func(p *plan.Pool) {
				p.Sizes = append(p.Sizes, dspool.Size{Name: "gpu", Resources: dspool.Resources{CPUs: 2, Memory: 4 * gib, GPUs: 1}})
			}), nil), guest(2, "bob", 8, asks("gpu")), guest(3, "cyd", 7, asks("gpu")), guest(4, "dan", 7, asks("small"))), dspool.Resources{CPUs: 8, Memory: 64 * gib, GPUs: 1}),
			`create gpu in batch: bob waits to log in
			 create small in batch: dan waits to log in
			 session 2 is number 1: a machine is being created
			 session 3 is number 2: the hosts have no room for another machine of size gpu: 1 of 1 gpus are taken
			 session 4 is number 3: a machine is being created
			 note batch: the hosts have no room for another machine of size gpu: 1 of 1 gpus are taken`,
		},
		{
			"a size larger than the hosts holds nobody up",
			host(with(snapshot(mixed(), nil), guest(2, "bob", 8, asks("big")), guest(3, "cyd", 7)), res(2, 64)),
			`create small in batch: cyd waits to log in
			 session 2 is number 1: a machine of size big (4 cpu, 8 GiB) is larger than the hosts (2 cpu, 64 GiB)
			 session 3 is number 2: a machine is being created
			 note batch: a machine of size big (4 cpu, 8 GiB) is larger than the hosts (2 cpu, 64 GiB)`,
		},
		{
			"a size that the pool has no more is said to be none, while its machines last they are given",
			with(snapshot(mixed(), []plan.Machine{box(1, func(m *plan.Machine) { m.Size = "old" })}), guest(1, "ada", 9, asks("old")), guest(2, "bob", 8, asks("old"))),
			`seat 1 on batch-1 (4 cpu, 8 GiB): machine batch-1 has room: place 1 of 1
			 session 2 is number 1: pool batch has no size old`,
		},
	})
}
