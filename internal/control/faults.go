package control

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

const (
	faultFirst = time.Second // after a fault one task is tried; after each in a row that fails, twice as much later
	faultMost  = time.Minute
	mostTries  = 3 // of a task that meets faults where others do not
)

// faults are what of the host and of shares keeps tasks from starting. It is lost with the server: then a few
// more tasks find out.
type faults struct {
	mu       sync.Mutex
	pools    map[string]*Fault
	machines map[string]*Fault
	started  map[string]int64 // by pool: the latest attempt that started
	tries    map[taskID]*tried
}

type taskID struct{ job, index int64 }

// tried is a task that met a fault: how often although others started, and the latest attempt of any that
// had been placed then.
type tried struct {
	n     int
	floor int64
}

// Fault is why no task starts in a pool, or on a machine.
type Fault struct {
	Why      dspool.Reason
	Floor    int64     // the latest attempt that had been placed when it was last met: later ones try
	until    time.Time // by this process's clock
	failures int
}

// Left is how long nothing is tried.
func (f Fault) Left() time.Duration { return max(0, time.Until(f.until)) }

func newFaults() *faults {
	return &faults{pools: map[string]*Fault{}, machines: map[string]*Fault{}, started: map[string]int64{}, tries: map[taskID]*tried{}}
}

// PoolFault is why no task starts in a pool; false if they do.
func (c *Control) PoolFault(pool string) (Fault, bool) { return c.faults.of(c.faults.pools, pool) }

// MachineFault is why no task starts on a machine; false if they do.
func (c *Control) MachineFault(machine string) (Fault, bool) {
	return c.faults.of(c.faults.machines, machine)
}

func (f *faults) of(places map[string]*Fault, name string) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := places[name]; x != nil {
		return *x, true
	}
	return Fault{}, false
}

// met notes that an attempt met a fault, and says whether its task is to be tried again, and whether the
// pool or machine had none before. Floor is the latest attempt that has been placed.
func (f *faults) met(pool, machine string, a store.AttemptRow, why dspool.Reason, floor int64) (again, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tries[taskID{a.Job, a.Index}]
	if t == nil {
		t = &tried{n: 1, floor: floor}
		f.tries[taskID{a.Job, a.Index}] = t
	} else if f.started[pool] > t.floor && !why.Is(dspool.WhyShareFull) { // a share may be full again for everybody
		t.n++
		t.floor = floor
	}
	if t.n >= mostTries {
		delete(f.tries, taskID{a.Job, a.Index})
		return false, false
	}
	places, name := f.pools, pool
	if why.Is(dspool.WhyHostFails) {
		places, name = f.machines, machine
	}
	x := places[name]
	if first = x == nil; first {
		x = &Fault{}
		places[name] = x
	}
	if a.ID > x.Floor { // those that were placed before it was last met are of the same wave
		x.failures++
		x.until = time.Now().Add(min(faultFirst<<min(x.failures-1, 10), faultMost))
		x.Floor = floor
	}
	x.Why = why
	return true, first
}

// start notes that an attempt started, and returns the faults that are over with it.
func (f *faults) start(pool, machine string, a store.AttemptRow) (over []dspool.Reason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started[pool] = max(f.started[pool], a.ID)
	delete(f.tries, taskID{a.Job, a.Index})
	if x := f.pools[pool]; x != nil && a.ID > x.Floor {
		over = append(over, x.Why)
		delete(f.pools, pool)
	}
	if x := f.machines[machine]; x != nil && a.ID > x.Floor {
		over = append(over, x.Why)
		delete(f.machines, machine)
	}
	return over
}

// ForgetFaults drops what is known of jobs and machines that are no more.
func (c *Control) ForgetFaults(live Rows) {
	f := c.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.machines, func(name string, _ *Fault) bool { return live.Machines[name] == nil })
	maps.DeleteFunc(f.tries, func(t taskID, _ *tried) bool { return live.Jobs[t.job] == nil })
}

// problems are the faults of machines; those of pools are in their notes.
func (f *faults) problems() (list []dspool.Reason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.machines)) {
		list = append(list, dspool.Why(dspool.WhyMachineProblem, dspool.ReasonParams{Machine: name}).With(f.machines[name].Why))
	}
	return list
}

// faultOf is a fault that a machine reports: which share it means is ours to say.
func faultOf(r dspool.Reason, job store.JobRow, machine string) dspool.Reason {
	switch r.Code {
	case dspool.WhyShareFull, dspool.WhyShareFails:
		r.Name = job.Share
	default:
		r.Code, r.Machine = dspool.WhyHostFails, machine
	}
	r.User = "" // it is nobody's
	return r
}

// hostFault puts an attempt's task back that did not start for a fault of the host or a share, and says
// whether it did: a task that meets them where others do not ends.
func (l *ledger) hostFault(f *faults, machine string, a store.AttemptRow, why dspool.Reason) (bool, error) {
	pool := l.jobs[a.Job].Spec.Pool
	again, first := f.met(pool, machine, a, why, l.LastAttempt())
	if !again {
		return false, nil
	}
	l.putBack(a)
	if !first {
		return true, nil
	}
	return true, l.event(dspool.Event{
		Actor: "server", Kind: "pool.held", Pool: pool, Machine: machine, Message: fmt.Sprintf("tasks cannot start in pool %s, and go back to the queue", pool), Reason: why,
	})
}

// hasStarted notes that an attempt started, which ends faults.
func (l *ledger) hasStarted(f *faults, machine string, a store.AttemptRow) error {
	pool := l.jobs[a.Job].Spec.Pool
	for _, why := range f.start(pool, machine, a) {
		l.wake(topicPlan)
		err := l.event(dspool.Event{
			Actor: "server", Kind: "pool.opened", Pool: pool, Machine: machine, Message: fmt.Sprintf("tasks start in pool %s again", pool), Reason: why,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
