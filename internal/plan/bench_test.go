package plan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
)

// large is a pool with machines of 16 cpus and jobs of users.
func large(machines, jobs, users int, used int, request func(i int) dspool.Resources) plan.Snapshot {
	size := dspool.Size{Name: "big", Resources: res(16, 64)}
	s := plan.Snapshot{Capacity: res(1<<20, 1<<22), Pools: []plan.Pool{batch(func(p *plan.Pool) { p.Max, p.Sizes = 1000, []dspool.Size{size} })}}
	for i := range machines {
		m := box(i, holds(int64(i%max(jobs, 1)), used, res(1, 4)))
		m.Resources = size.Resources
		s.Machines = append(s.Machines, m)
	}
	for i := range jobs {
		s.Jobs = append(s.Jobs, job(int64(i), fmt.Sprintf("user%d", i%users), 100, wants(request(i)), func(j *plan.Job) {
			j.TaskTime, j.Created = 100*time.Millisecond, ago(time.Hour)
		}))
	}
	return s
}

func BenchmarkCompute(b *testing.B) {
	same := func(int) dspool.Resources { return res(1, 4) }
	distinct := func(i int) dspool.Resources {
		return dspool.Resources{CPUs: 1 + float64(i%5000)/1000, Memory: 64<<20 + int64(10_000-i)<<18}
	}
	million := func(j *plan.Job) { j.Pending = 1_000_000 }
	full := large(1000, 0, 1, 16, same)
	full.Jobs = []plan.Job{job(1, "ada", 1, million)}
	empty := large(1000, 0, 1, 0, same)
	empty.Jobs = full.Jobs
	none := large(0, 0, 1, 0, same)
	none.Jobs = full.Jobs
	tiny := large(1000, 0, 1, 0, same)
	for i := range 20 {
		tiny.Jobs = append(tiny.Jobs, job(int64(i), fmt.Sprintf("user%d", i), 1, million, wants(dspool.Resources{CPUs: 0.001, Memory: 4 << 20})))
	}
	people := large(1000, 10_000, 50, 8, same)
	for i := range 10_000 { // half of them wait, for 4 places on each machine
		x := guest(int64(i+1), fmt.Sprintf("user%d", i), i)
		if i%2 == 0 {
			on(fmt.Sprintf("batch-%d", i/2%1000))(&x)
			x.Request = res(0.001, 0)
		}
		people.Sessions = append(people.Sessions, x)
	}
	herd := with(large(0, 0, 1, 0, same), people.Sessions...)
	for _, bench := range []struct {
		name string
		s    plan.Snapshot
	}{
		{"1000 machines busy, 10000 jobs of 50 users", large(1000, 10_000, 50, 16, same)},
		{"1000 machines half busy, 10000 jobs of 50 users", large(1000, 10_000, 50, 8, same)},
		{"1000 machines empty, 10000 jobs of 10000 users", large(1000, 10_000, 10_000, 0, same)},
		{"1000 machines half busy, 10000 jobs of distinct requests", large(1000, 10_000, 50, 8, distinct)},
		{"no machine, 10000 jobs of distinct requests", large(0, 10_000, 50, 0, distinct)},
		{"1000 machines empty, 20 jobs of 1000000 tiny tasks", tiny},
		{"1000 machines busy, one job of 1000000 tasks", full},
		{"1000 machines empty, one job of 1000000 tasks", empty},
		{"no machine, one job of 1000000 tasks", none},
		{"1000 machines half busy, 10000 jobs and 10000 sessions", people},
		{"no machine, 10000 sessions", herd},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				plan.Compute(bench.s, now)
			}
		})
	}
}
