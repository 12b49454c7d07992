package plan_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

// world is a little dspool: it applies plans and lets time pass.
type world struct {
	t        fataler
	s        plan.Snapshot
	now      time.Time
	boot     func() (takes time.Duration, fails bool)
	goes     time.Duration            // that a removal takes
	events   []event                  // by time
	length   map[int64]time.Duration  // of a job's tasks
	ends     map[int64]bool           // attempts that have an end event
	ran      map[int64]int64          // tasks that ended, by job
	next     int64                    // attempt
	machines int                      // made so far
	made     map[string]int           // by pool
	firstRun map[int64]time.Time      // of a job
	peak     map[string]int           // machines at once, by pool
	life     map[string]time.Time     // when machines became ready
	min      map[string]time.Duration // shortest time a machine was ready before the idle rule took it
	logins   int64                    // sessions so far
	seats    []int64                  // sessions in the order in which they got a place
}

type event struct {
	at time.Time
	do func()
}

func newWorld(t fataler, s plan.Snapshot) *world {
	return &world{t: t, s: s, now: now, goes: 300 * time.Millisecond,
		boot:   func() (time.Duration, bool) { return 2 * time.Second, false },
		length: map[int64]time.Duration{}, ends: map[int64]bool{}, ran: map[int64]int64{}, made: map[string]int{},
		firstRun: map[int64]time.Time{}, peak: map[string]int{}, life: map[string]time.Time{}, min: map[string]time.Duration{}}
}

func (w *world) after(d time.Duration, do func()) {
	e := event{w.now.Add(d), do}
	i, _ := slices.BinarySearchFunc(w.events, e.at.Add(1), func(e event, at time.Time) int { return e.at.Compare(at) })
	w.events = slices.Insert(w.events, i, e)
}

func (w *world) machine(name string) *plan.Machine {
	i := slices.IndexFunc(w.s.Machines, func(m plan.Machine) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &w.s.Machines[i]
}

func (w *world) job(id int64) *plan.Job {
	return &w.s.Jobs[slices.IndexFunc(w.s.Jobs, func(j plan.Job) bool { return j.ID == id })]
}

func (w *world) pool(name string) *plan.Pool {
	return &w.s.Pools[slices.IndexFunc(w.s.Pools, func(p plan.Pool) bool { return p.Name == name })]
}

// run plans and applies until nothing more happens, and returns how many plans it took.
func (w *world) run(most int) int {
	for passes := 1; ; passes++ {
		if passes > most {
			w.t.Fatalf("still busy after %d plans, at %v: %v\n%+v", most, w.now.Sub(now), lines(plan.Compute(w.s, w.now)), w.s)
		}
		p := verify(w.t, w.s, w.now)
		before := clone(w.s)
		w.apply(p)
		w.settled(before)
		wake := plan.Compute(w.s, w.now).WakeAt
		switch {
		case len(w.events) > 0 && (wake.IsZero() || !w.events[0].at.After(wake)):
			w.now = w.events[0].at
			for len(w.events) > 0 && !w.events[0].at.After(w.now) {
				do := w.events[0].do
				w.events = w.events[1:]
				do()
			}
		case wake.IsZero():
			return passes
		default:
			w.now = wake
		}
	}
}

// settled checks that a plan, once applied, is followed by no other at the same moment.
func (w *world) settled(before plan.Snapshot) {
	p, first := plan.Compute(w.s, w.now), plan.Compute(before, w.now)
	if slices.ContainsFunc(first.Waiting, func(x plan.Waiting) bool { return x.Reason.Is(dspool.WhyMachineReserved, dspool.WhyRoomReserved) }) {
		p.Place = nil // it is another user's turn, perhaps with less than was kept for the first
	}
	if slices.ContainsFunc(first.Create, func(c plan.Create) bool { return c.Size.Name != w.pool(c.Pool).Sizes[0].Name }) {
		p.Create = nil // the machine is smaller than one that was kept for the pool's min, which it fills
	}
	// A reservation may move when that user's turn comes, and what was placed ahead there with it.
	p.Recall = slices.DeleteFunc(p.Recall, func(x plan.Recall) bool { return x.Reason.Is(dspool.WhyReservedFor) })
	if len(p.Create)+len(p.Destroy)+len(p.Place)+len(p.Recall)+len(p.Seat)+len(p.Close) > 0 {
		w.t.Fatalf("a second plan at the same moment wants more: %q\nthe first was %q\nof %+v", lines(p), lines(first), before)
	}
}

func (w *world) apply(p plan.Plan) {
	for _, r := range p.Recall {
		w.recall(r.Attempt)
	}
	for _, x := range p.Place {
		m, j := w.machine(x.Machine), w.job(x.Job)
		for range x.Count {
			w.next++
			m.Attempts = append(m.Attempts, plan.Attempt{ID: w.next, Job: j.ID, Request: j.Request, Since: w.now})
		}
		j.Pending -= int64(x.Count)
		j.Placed += int64(x.Count)
		if _, ok := w.firstRun[j.ID]; !ok {
			w.firstRun[j.ID] = w.now
		}
	}
	for _, x := range p.Seat {
		w.seat(x)
	}
	for _, x := range p.Close {
		w.close(x.Session)
	}
	for _, d := range p.Destroy {
		m := w.machine(d.Machine)
		if d.Reason.Is(dspool.WhyIdle) {
			if lived := w.now.Sub(w.life[m.Name]); w.min[m.Pool] == 0 || lived < w.min[m.Pool] {
				w.min[m.Pool] = lived
			}
		}
		m.State = dspool.Destroying
		w.after(w.goes, func() { w.gone(d.Machine) })
	}
	for _, c := range p.Create {
		w.create(c)
	}
	for i := range w.s.Machines {
		w.agent(&w.s.Machines[i])
	}
}

// recall is what an agent answers: an attempt that has not started goes back into the queue.
func (w *world) recall(id int64) {
	for i := range w.s.Machines {
		m := &w.s.Machines[i]
		for k := range m.Attempts {
			if m.Attempts[k].ID != id {
				continue
			}
			m.Attempts[k].Recall = true
			name := m.Name
			w.after(10*time.Millisecond, func() { w.answer(name, id) })
		}
	}
}

func (w *world) answer(machine string, id int64) {
	m := w.machine(machine)
	i := slices.IndexFunc(m.Attempts, func(a plan.Attempt) bool { return a.ID == id })
	if i < 0 || m.Attempts[i].Running {
		return
	}
	j := w.job(m.Attempts[i].Job)
	j.Pending++
	j.Placed--
	m.Attempts = slices.Delete(m.Attempts, i, i+1)
}

func (w *world) create(c plan.Create) {
	w.machines++
	w.made[c.Pool]++
	m := plan.Machine{Name: fmt.Sprintf("%s-%d", c.Pool, w.machines), Pool: c.Pool, Size: c.Size.Name, Resources: c.Size.Resources,
		State: dspool.Creating, Health: dspool.HealthUnknown, IdleSince: w.now}
	w.s.Machines = append(w.s.Machines, m)
	n := 0
	for _, m := range w.s.Machines {
		if m.Pool == c.Pool {
			n++
		}
	}
	w.peak[c.Pool] = max(w.peak[c.Pool], n)
	takes, fails := w.boot()
	w.after(takes/2, func() {
		if m := w.machine(m.Name); m.State == dspool.Creating {
			m.State = dspool.Starting
		}
	})
	name := m.Name
	w.after(takes, func() {
		m, pool := w.machine(name), w.pool(c.Pool)
		switch {
		case m == nil || m.State != dspool.Starting:
		case fails:
			pool.LastFailure, pool.BackoffUntil = testkit.Stated("no luck"), w.now.Add(5*time.Second)
			m.State = dspool.Destroying
			w.after(w.goes, func() { w.gone(name) })
		default:
			pool.LastFailure, pool.BackoffUntil = dspool.Reason{}, time.Time{}
			m.State, m.Health, m.IdleSince = dspool.Ready, dspool.Healthy, w.now
			w.life[m.Name] = w.now
		}
	})
}

func (w *world) gone(name string) {
	if n := len(seated(w.s, name)); n > 0 {
		w.t.Fatalf("%s is gone with %d sessions on it", name, n)
	}
	w.s.Machines = slices.DeleteFunc(w.s.Machines, func(m plan.Machine) bool { return m.Name == name })
}

// agent starts what fits, in order.
func (w *world) agent(m *plan.Machine) {
	left := m.Resources
	for _, x := range seated(w.s, m.Name) {
		left = left.Sub(x.Request)
	}
	for _, a := range m.Attempts {
		if a.Running {
			left = left.Sub(a.Request)
		}
	}
	if !(dspool.Resources{}).Fits(left) {
		w.t.Fatalf("%s is overfull", m.Name)
	}
	for i := range m.Attempts {
		a := &m.Attempts[i]
		if a.Running || !a.Request.Fits(left) {
			continue
		}
		a.Running = true
		left = left.Sub(a.Request)
		name, id := m.Name, a.ID
		w.after(w.length[a.Job], func() { w.end(name, id) })
	}
}

func (w *world) end(machine string, id int64) {
	m := w.machine(machine)
	i := slices.IndexFunc(m.Attempts, func(a plan.Attempt) bool { return a.ID == id })
	j := w.job(m.Attempts[i].Job)
	m.Attempts = slices.Delete(m.Attempts, i, i+1)
	w.rest(m)
	j.Placed--
	w.ran[j.ID]++
	j.TaskTime = w.length[j.ID]
	w.agent(m) // the next one ahead, without a word to the planner
}

func TestZeroToZero(t *testing.T) {
	t.Parallel()
	w := newWorld(t, snapshot(batch(), nil, job(1, "ada", 100)))
	w.length[1] = 3 * time.Second
	w.run(1000)
	if w.ran[1] != 100 || len(w.s.Machines) != 0 {
		t.Fatalf("%d tasks ran, %d machines are left", w.ran[1], len(w.s.Machines))
	}
	if w.made["batch"] != 4 || w.min["batch"] < 10*time.Minute {
		t.Errorf("%d machines were made, the shortest lived %v", w.made["batch"], w.min["batch"])
	}
}

func TestShortTasksRunAheadOfTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, snapshot(batch(func(p *plan.Pool) { p.Max = 1 }), nil, job(1, "ada", 4000)))
	w.length[1] = 10 * time.Millisecond
	passes := w.run(2000)
	if w.ran[1] != 4000 {
		t.Fatalf("%d tasks ran", w.ran[1])
	}
	t.Logf("%d plans", passes)
}

func TestABigTaskDoesNotStarve(t *testing.T) {
	t.Parallel()
	w := newWorld(t, snapshot(batch(func(p *plan.Pool) { p.Max = 2 }), nil, job(1, "ada", 500), job(3, "bob", 1)))
	w.length[1], w.length[3] = 7*time.Second, 3*time.Second
	w.after(20*time.Second, func() {
		w.s.Jobs = append(w.s.Jobs, job(2, "bob", 1, wants(res(4, 8)), func(j *plan.Job) { j.Created = w.now }))
		w.length[2] = time.Second
	})
	// Tasks of different ends, so that a machine is never empty by chance.
	w.s.Jobs = append(w.s.Jobs, job(4, "cyd", 500))
	w.length[4] = 5 * time.Second
	w.run(5000)
	if waited := w.firstRun[2].Sub(now.Add(20 * time.Second)); waited > time.Minute {
		t.Errorf("the big task waited %v", waited)
	}
}

func TestEveryWorldComesToRest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.run(3000)
		for _, j := range w.s.Jobs {
			if j.Pending > 0 || j.Placed > 0 {
				t.Fatalf("job %d still has %d pending and %d placed tasks: %v", j.ID, j.Pending, j.Placed, lines(plan.Compute(w.s, w.now)))
			}
		}
		if len(w.s.Sessions) > 0 {
			t.Fatalf("sessions are left: %+v", w.s.Sessions)
		}
		for _, p := range w.s.Pools {
			n := 0
			for _, m := range w.s.Machines {
				if m.Pool == p.Name {
					n++
				}
			}
			if want := min(max(p.Min, p.Spare), p.Max); n != want {
				t.Fatalf("pool %s is left with %d machines, want %d", p.Name, n, want)
			}
			if shortest, limit := w.min[p.Name], time.Duration(p.Policy.IdleAfter); shortest != 0 && shortest < limit {
				t.Fatalf("a machine of pool %s went after %v, the limit is %v", p.Name, shortest, limit)
			}
		}
	})
}

func drawWorld(t *rapid.T) *world {
	s := plan.Snapshot{}
	largest := dspool.Resources{}
	for _, name := range []string{"batch", "lab"} {
		p := plan.Pool{Pool: dspool.Pool{Name: name, Max: rapid.IntRange(1, 5).Draw(t, "max"), Spare: rapid.IntRange(0, 2).Draw(t, "spare"),
			Policy: dspool.PoolPolicy{IdleAfter: dspool.Duration(rapid.IntRange(1, 60).Draw(t, "idle after")) * dspool.Duration(time.Second)}}}
		p.Min = rapid.IntRange(0, p.Max).Draw(t, "min")
		p.Policy.SessionsPerMachine = rapid.IntRange(0, 5).Draw(t, "sessions per machine")
		p.Policy.SessionIdle = dspool.Duration(rapid.IntRange(0, 90).Draw(t, "session idle")) * dspool.Duration(time.Second)
		p.Sizes = []dspool.Size{small, big}
		if rapid.Bool().Draw(t, "big first") {
			p.Sizes = []dspool.Size{big, small}
		}
		for range min(max(p.Min, p.Spare), p.Max) { // room for what they keep of any size
			s.Capacity = s.Capacity.Add(big.Resources)
			s.MaxMachines++
		}
		s.Pools = append(s.Pools, p)
		largest = big.Resources
	}
	s.Capacity = s.Capacity.Add(largest).Add(res(float64(rapid.IntRange(0, 8).Draw(t, "more cpus")), 64))
	s.MaxMachines += rapid.IntRange(1, 5).Draw(t, "more machines")
	w := newWorld(t, s)
	jobs := rapid.IntRange(0, 5).Draw(t, "jobs")
	for id := range int64(jobs) {
		r := dspool.Resources{CPUs: float64(rapid.IntRange(1, 40).Draw(t, "cpus")) / 10, Memory: rapid.Int64Range(1, 8).Draw(t, "gibs") * gib}
		j := job(id+1, rapid.SampledFrom([]string{"ada", "bob", "cyd"}).Draw(t, "user"), rapid.Int64Range(1, 40).Draw(t, "tasks"), wants(r))
		j.Pool = rapid.SampledFrom([]string{"batch", "lab"}).Draw(t, "pool")
		j.MaxRunning = rapid.SampledFrom([]int{0, 0, 0, 2}).Draw(t, "max running")
		if rapid.Bool().Draw(t, "sized") {
			j.Size = "big"
		}
		w.length[j.ID] = time.Duration(rapid.SampledFrom([]int{5, 80, 600, 2000, 30_000}).Draw(t, "length")) * time.Millisecond
		w.after(time.Duration(rapid.IntRange(0, 90).Draw(t, "submitted"))*time.Second, func() {
			j.Created = w.now
			w.s.Jobs = append(w.s.Jobs, j)
		})
	}
	drawLogins(t, w)
	luck := rapid.SliceOfN(rapid.IntRange(0, 3), 20, 20).Draw(t, "luck")
	w.boot = func() (time.Duration, bool) {
		k := luck[w.machines%len(luck)]
		return time.Duration(1+k) * time.Second, k == 3 && w.machines < 20
	}
	return w
}
