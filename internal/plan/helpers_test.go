package plan_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

const gib = 1 << 30

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func res(cpus float64, gibs int64) dspool.Resources {
	return dspool.Resources{CPUs: cpus, Memory: gibs * gib}
}

var (
	small = dspool.Size{Name: "small", Resources: res(1, 2), Price: 1}
	big   = dspool.Size{Name: "big", Resources: res(4, 8), Price: 4}
)

// batch is a pool from zero to four machines, idle for ten minutes at most.
func batch(change ...func(*plan.Pool)) plan.Pool {
	p := plan.Pool{Pool: dspool.Pool{Name: "batch", Max: 4, Policy: dspool.PoolPolicy{IdleAfter: dspool.Duration(10 * time.Minute)}}, Sizes: []dspool.Size{big}}
	for _, f := range change {
		f(&p)
	}
	return p
}

// box is a ready, healthy, empty machine of size big that has just become idle.
func box(n int, change ...func(*plan.Machine)) plan.Machine {
	m := plan.Machine{Name: fmt.Sprintf("batch-%d", n), Pool: "batch", Size: "big", Resources: big.Resources,
		State: dspool.Ready, Health: dspool.Healthy, IdleSince: now}
	for _, f := range change {
		f(&m)
	}
	return m
}

func smallBox(m *plan.Machine) { m.Size, m.Resources = "small", small.Resources }

func state(s dspool.MachineState) func(*plan.Machine) {
	return func(m *plan.Machine) {
		if m.State = s; s == dspool.Creating || s == dspool.Starting {
			m.Health = dspool.HealthUnknown
		}
	}
}

func idleFor(d time.Duration) func(*plan.Machine) {
	return func(m *plan.Machine) { m.IdleSince = ago(d) }
}

// holds puts running attempts of a job on the machine.
func holds(job int64, n int, request dspool.Resources) func(*plan.Machine) {
	return attempts(job, n, request, true, time.Second)
}

func attempts(job int64, n int, request dspool.Resources, running bool, age time.Duration) func(*plan.Machine) {
	return func(m *plan.Machine) {
		for range n {
			id := int64(len(m.Attempts) + 1)
			m.Attempts = append(m.Attempts, plan.Attempt{ID: id, Job: job, Request: request, Running: running, Since: ago(age)})
		}
	}
}

// job is a job with pending tasks of one cpu and 2 GiB.
func job(id int64, user string, pending int64, change ...func(*plan.Job)) plan.Job {
	j := plan.Job{ID: id, User: user, Pool: "batch", Request: res(1, 2), Pending: pending, Created: ago(time.Second)}
	for _, f := range change {
		f(&j)
	}
	return j
}

func wants(r dspool.Resources) func(*plan.Job) { return func(j *plan.Job) { j.Request = r } }

func snapshot(p plan.Pool, machines []plan.Machine, jobs ...plan.Job) plan.Snapshot {
	return plan.Snapshot{Pools: []plan.Pool{p}, Machines: machines, Jobs: jobs, Capacity: res(1000, 4000)}
}

// lines prints a plan as one action a line.
func lines(p plan.Plan) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, x := range p.Place {
		add("place %d of job %d on %s: %s", x.Count, x.Job, x.Machine, testkit.Text(x.Reason))
	}
	for _, x := range p.Recall {
		add("recall %d: %s", x.Attempt, testkit.Text(x.Reason))
	}
	for _, x := range p.Create {
		add("create %s in %s: %s", x.Size.Name, x.Pool, testkit.Text(x.Reason))
	}
	for _, x := range p.Destroy {
		add("destroy %s: %s", x.Machine, testkit.Text(x.Reason))
	}
	for _, x := range p.Seat {
		add("seat %d on %s (%v): %s", x.Session, x.Machine, x.Request, testkit.Text(x.Reason))
	}
	for _, x := range p.Close {
		add("close %d: %s", x.Session, testkit.Text(x.Reason))
	}
	for _, x := range p.Queue {
		add("session %d is number %d: %s", x.Session, x.Position, testkit.Text(x.Reason))
	}
	for _, x := range p.Waiting {
		add("job %d: %s", x.Job, testkit.Text(x.Reason))
	}
	for _, x := range p.Notes {
		add("note %s: %s", x.Pool, testkit.Text(x.Reason))
	}
	if !p.WakeAt.IsZero() {
		add("wake in %s", p.WakeAt.Sub(now))
	}
	return out
}

// guest is a session that waits since n seconds ago, with its user connected.
func guest(id int64, user string, n int, change ...func(*plan.Session)) plan.Session {
	s := plan.Session{ID: id, User: user, Pool: "batch", State: dspool.SessionWaiting, Request: res(1, 2),
		Connections: 1, LastActive: ago(time.Duration(n) * time.Second), Since: ago(time.Duration(n) * time.Second)}
	for _, f := range change {
		f(&s)
	}
	return s
}

// on makes a session an open one on a machine, with its user connected.
func on(machine string) func(*plan.Session) {
	return func(s *plan.Session) { s.Machine, s.State = machine, dspool.SessionOpen }
}

// left is an open session on a machine in which nothing has lived for a time.
func left(machine string, since time.Duration) func(*plan.Session) {
	return func(s *plan.Session) {
		s.Machine, s.State, s.Connections, s.LastActive, s.Since = machine, dspool.SessionOpen, 0, ago(since), ago(100*time.Hour)
	}
}

func with(s plan.Snapshot, sessions ...plan.Session) plan.Snapshot {
	s.Sessions = sessions
	return s
}

type rule struct {
	claim string
	s     plan.Snapshot
	want  string // lines
}

func check(t *testing.T, rules []rule) {
	t.Helper()
	t.Parallel()
	for _, r := range rules {
		t.Run(r.claim, func(t *testing.T) {
			t.Parallel()
			var want []string
			for line := range strings.Lines(r.want) {
				if line = strings.TrimSpace(line); line != "" {
					want = append(want, line)
				}
			}
			if diff := cmp.Diff(want, lines(plan.Compute(r.s, now))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// timeless is a reason without the time that it names, also of those behind it.
func timeless(r dspool.Reason) dspool.Reason {
	r.Time = 0
	for i := range r.Because {
		r.Because[i] = timeless(r.Because[i])
	}
	return r
}
