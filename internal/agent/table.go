package agent

import (
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/initd"
)

// table is what the agent knows of attempts. It decides and does nothing: its methods return
// decisions for others to carry out.
type table struct {
	whole dspool.Resources

	mu       sync.Mutex
	held     dspool.Resources // by sessions
	revision int64
	used     dspool.Resources
	attempts map[int64]*attempt // not settled
	queue    []*attempt
	jobs     map[int64]*job
	settled  idSet // so that an old answer never runs them again
	dirty    []*attempt
	wake     chan struct{} // something became dirty
	hurry    chan struct{} // it has more to say than that it runs
}

type job struct {
	spec api.TaskSpec
	uses int
}

type stage int

const (
	queued stage = iota
	starting
	running
	ended
)

type attempt struct {
	id, index int64
	job       *job
	request   dspool.Resources
	stage     stage
	kill      *initd.Kill
	limited   bool // its time limit is being watched
	oomTold   int64
	timer     *time.Timer
	report    api.AttemptReport // without times
	begun     time.Time         // zero: it never ran
	over      time.Time         // zero: it runs
	version   int64             // of report
	dirty     bool
	notBefore time.Time // for reporting again what the server refused
}

type decisions struct {
	start []initd.Spec
	kill  []initd.Kill
	limit []limit
}

type limit struct {
	id    int64
	after time.Duration
}

func newTable(whole dspool.Resources) *table {
	return &table{
		whole: whole, attempts: map[int64]*attempt{}, jobs: map[int64]*job{}, settled: idSet{},
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
	}
}

// direct takes in an answer of the server. One that is older than an earlier one is dropped whole.
func (t *table) direct(d api.Directives) decisions {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out decisions
	if d.Revision < t.revision {
		return out
	}
	t.revision = d.Revision
	specs := map[int64]api.TaskSpec{}
	for _, s := range d.Jobs {
		specs[s.Job] = s
		if j := t.jobs[s.Job]; j != nil {
			j.spec.Account = s.Account // what waits starts with what its user may do now
		}
	}
	for _, x := range d.Attempts {
		if t.settled.has(x.ID) {
			continue
		}
		if a := t.attempts[x.ID]; a != nil {
			if x.Cancel || x.Recall {
				t.cancel(a, x, &out)
			}
			continue
		}
		a := &attempt{id: x.ID, index: x.Index, stage: queued, report: api.AttemptReport{ID: x.ID}}
		t.attempts[x.ID] = a
		spec, ok := specs[x.Job]
		switch {
		case x.Cancel || x.Recall:
			t.end(a, dspool.TaskCancelled, x.Reason)
		case !ok && t.jobs[x.Job] == nil:
			t.end(a, dspool.TaskFailed, dspool.Why(dspool.WhyWithoutJob, dspool.ReasonParams{Job: x.Job}))
		case ok && !spec.Request.Fits(t.whole):
			t.end(a, dspool.TaskFailed, dspool.Why(dspool.WhyTooLarge, dspool.ReasonParams{Request: spec.Request, Capacity: t.whole}))
		default:
			if t.jobs[x.Job] == nil {
				t.jobs[x.Job] = &job{spec: spec}
			}
			a.job = t.jobs[x.Job]
			a.job.uses++
			a.request = a.job.spec.Request
			t.queue = append(t.queue, a)
		}
	}
	t.fill(&out)
	return out
}

func (t *table) cancel(a *attempt, x api.AttemptDirective, out *decisions) {
	switch {
	case a.stage == queued:
		t.queue = slices.DeleteFunc(t.queue, func(q *attempt) bool { return q == a })
		t.end(a, dspool.TaskCancelled, x.Reason)
	case x.Recall:
		t.tell(a) // that it was too late
	case a.stage == starting || a.stage == running:
		t.kill(a, initd.Cancelled, x.Reason, out)
	}
}

func (t *table) kill(a *attempt, cause initd.Cause, reason dspool.Reason, out *decisions) {
	if a.kill != nil {
		return
	}
	a.kill = &initd.Kill{ID: a.id, Cause: cause, Reason: reason}
	// One that is starting is killed once the Executor knows it.
	if a.stage == running {
		out.kill = append(out.kill, *a.kill)
	}
}

// hold sets what sessions hold of the machine; what runs is not touched.
func (t *table) hold(held dspool.Resources) decisions {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out decisions
	t.held = held
	t.fill(&out)
	return out
}

// fill starts from the queue, strictly in its order, what there is room for.
func (t *table) fill(out *decisions) {
	for len(t.queue) > 0 && t.used.Add(t.held).Add(t.queue[0].request).Fits(t.whole) {
		a := t.queue[0]
		t.queue = t.queue[1:]
		t.used = t.used.Add(a.request)
		a.stage = starting
		s := a.job.spec
		out.start = append(out.start, initd.Spec{
			ID: a.id, Job: s.Job, Index: a.index, Count: s.Count, Account: s.Account,
			Mount: s.Mount, Dir: path.Join(s.Dir, strconv.FormatInt(a.index, 10)), Command: s.Command, Env: s.Env,
			Request: s.Request, Quota: s.Request.CPUs < t.whole.CPUs, TimeLimit: s.TimeLimit,
		})
	}
}

// adopt takes over an attempt that an earlier agent started.
func (t *table) adopt(s initd.Status) decisions {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out decisions
	if t.attempts[s.ID] != nil || t.settled.has(s.ID) {
		return out
	}
	a := &attempt{id: s.ID, request: s.Request, stage: starting, report: api.AttemptReport{ID: s.ID}}
	t.attempts[s.ID] = a
	t.used = t.used.Add(s.Request)
	t.take(a, s, &out)
	return out
}

// started notes what Spawn returned.
func (t *table) started(s initd.Status) decisions {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out decisions
	if a := t.attempts[s.ID]; a != nil {
		t.take(a, s, &out)
	}
	return out
}

// ended notes what Exits told.
func (t *table) ended(s initd.Status) decisions {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out decisions
	if a := t.attempts[s.ID]; a != nil && a.stage != queued {
		t.take(a, s, &out)
	}
	return out
}

// take brings a to what the Executor says, in whatever order that comes.
func (t *table) take(a *attempt, s initd.Status, out *decisions) {
	if a.stage == ended {
		return
	}
	if s.State == initd.Starting {
		s.State = initd.Running // it holds its resources and can be killed
	}
	now := time.Now()
	if s.Started != nil && a.begun.IsZero() {
		a.begun = now.Add(-time.Duration(s.Elapsed + s.Over))
	}
	if s.State == initd.Ended {
		t.used = t.used.Sub(a.request)
		a.report.ExitCode = s.ExitCode
		if s.Started != nil {
			a.over = now.Add(-time.Duration(s.Over))
		}
		state, reason := verdict(s)
		a.report.HostFault = s.HostFault && state == dspool.TaskFailed
		t.end(a, state, reason)
		t.fill(out)
		return
	}
	if a.stage == starting {
		a.stage = running
		if s.Started != nil {
			a.report.State = dspool.TaskRunning
			t.tell(a)
		}
		if a.kill != nil {
			out.kill = append(out.kill, *a.kill)
		}
	}
	// Ever less often: a pool of workers may have another killed each second.
	if s.OOMKills > 2*a.oomTold && a.report.State == dspool.TaskRunning {
		a.oomTold, a.report.Reason = s.OOMKills, killedSome(s)
		t.tell(a)
		signal(t.hurry)
	}
	if s.TimeLimit > 0 && !a.limited {
		a.limited = true
		out.limit = append(out.limit, limit{a.id, max(0, time.Duration(s.TimeLimit-s.Elapsed))})
	}
}

// timed keeps the timer of an attempt's time limit until it ends.
func (t *table) timed(id int64, timer *time.Timer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.attempts[id]; a != nil && a.stage != ended {
		a.timer = timer
		return
	}
	timer.Stop()
}

// overTime ends an attempt that has reached its time limit.
func (t *table) overTime(id int64) decisions {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out decisions
	if a := t.attempts[id]; a != nil && a.stage == running {
		t.kill(a, initd.OverTime, dspool.Reason{}, &out)
	}
	return out
}

// end makes a's report final.
func (t *table) end(a *attempt, state dspool.TaskState, reason dspool.Reason) {
	a.stage = ended
	if a.timer != nil {
		a.timer.Stop()
	}
	a.report.State, a.report.Reason = state, reason
	if a.job != nil {
		if a.job.uses--; a.job.uses == 0 {
			delete(t.jobs, a.job.spec.Job)
		}
		a.job = nil
	}
	t.tell(a)
}

// killedSome says that the kernel killed some of an attempt; nothing where it did not.
func killedSome(s initd.Status) dspool.Reason {
	if s.OOMKills == 0 {
		return dspool.Reason{}
	}
	return dspool.Why(dspool.WhyKilledSome, dspool.ReasonParams{Bytes: s.Request.Memory, Count: s.OOMKills})
}

// verdict judges an end. It names kills for memory, whatever else there is to say.
func verdict(s initd.Status) (dspool.TaskState, dspool.Reason) {
	state, reason := judge(s)
	if killed := killedSome(s); !killed.IsZero() && !reason.Is(dspool.WhyOutOfMemory) {
		reason = killed.With(reason)
	}
	return state, reason
}

func judge(s initd.Status) (dspool.TaskState, dspool.Reason) {
	switch {
	case !s.Fault.IsZero():
		if s.Cause == initd.Cancelled {
			return dspool.TaskCancelled, s.Reason
		}
		return dspool.TaskFailed, s.Fault
	case s.Cause == initd.Cancelled:
		return dspool.TaskCancelled, initd.WithStuck(s.Reason, s.Stuck)
	case s.Cause == initd.OverTime:
		return dspool.TaskFailed, initd.WithStuck(dspool.Why(dspool.WhyOverTime, dspool.ReasonParams{Within: s.TimeLimit}), s.Stuck)
	case s.Cause != "":
		return dspool.TaskFailed, initd.WithStuck(s.Reason, s.Stuck)
	case s.ExitCode == nil:
		return dspool.TaskFailed, initd.WithStuck(dspool.Reason{Code: dspool.WhyEndUnknown}, s.Stuck)
	case *s.ExitCode == 0 && s.Signal == 0:
		return dspool.TaskSucceeded, dspool.Reason{}
	case s.OOMKills > 0:
		return dspool.TaskFailed, dspool.Why(dspool.WhyOutOfMemory, dspool.ReasonParams{Bytes: s.Request.Memory})
	case s.Signal != 0:
		return dspool.TaskFailed, dspool.Why(dspool.WhySignal, dspool.ReasonParams{Name: initd.SignalName(s.Signal)})
	}
	return dspool.TaskFailed, dspool.Why(dspool.WhyExitCode, dspool.ReasonParams{Count: int64(*s.ExitCode)})
}

// idSet is a set of identifiers. Those of one machine lie close together, so that a million
// take a few megabytes.
type idSet map[int64]uint64

func (s idSet) add(id int64)      { s[id>>6] |= 1 << (id & 63) }
func (s idSet) has(id int64) bool { return s[id>>6]&(1<<(id&63)) != 0 }
