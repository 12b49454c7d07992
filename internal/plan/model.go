package plan

import (
	"cmp"
	"time"

	"github.com/dspool/dspool"
)

// machine is a machine of the snapshot, or one that this plan creates, with the
// room that is left as the plan grows.
type machine struct {
	*Machine  // nil for one that this plan creates
	pool      *pool
	index     int // ties are broken by it
	size      string
	total     vec
	free      vec
	fill      float64 // largest part of it that is free: the fullest machine has the least
	usable    bool    // takes tasks: now, or once it is ready
	coming    bool    // being created or starting
	busy      bool    // holds attempts or sessions, or this plan gives it some
	destroyed bool    // by this plan
	ahead     int     // attempts on it that hold no claim
	recalled  bool    // some of those are asked back
	reserved  *job    // the only one that may place tasks on it; nil is everybody
	sessions  int     // that hold a part of it, and those that this plan gives it
	people    vec     // what those hold
	kept      *guest  // for whom it is kept free of more tasks; nil if for nobody
	create    *dspool.Size
	creator   *job          // for whose tasks this plan creates it; nil for sessions, min and spare
	guest     *guest        // for whom and others this plan creates it
	reason    dspool.Reason // of its creation for min or spare
}

// give takes the room of n tasks.
func (m *machine) give(req vec, n int64) {
	m.free = m.free.plus(req, -n)
	m.fill = m.free.share(m.total)
	m.busy = true
}

// give takes the room of n tasks or sessions of a machine of the yard.
func (y *yard) give(m *machine, req vec, n int64) {
	m.give(req, n)
	if m.free.cpu <= 0 || m.free.mem <= 0 {
		y.closed++
	}
}

// fuller orders machines so that those in use come first and, of free ones, the
// smallest and the one used last: the others can then go idle and be destroyed.
func fuller(a, b *machine) int {
	if c := cmp.Compare(a.fill, b.fill); c != 0 {
		return c
	}
	if a.busy != b.busy {
		if a.busy {
			return -1
		}
		return 1
	}
	if c := cmp.Or(cmp.Compare(a.total.gpu, b.total.gpu), cmp.Compare(a.total.cpu, b.total.cpu), cmp.Compare(a.total.mem, b.total.mem)); c != 0 {
		return c
	}
	if a.Machine != nil && b.Machine != nil {
		if c := b.IdleSince.Compare(a.IdleSince); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.index, b.index)
}

// pool is a pool with its machines sorted by what they are good for.
type pool struct {
	*Pool
	whole     vec        // what the shares of its users are measured by
	least     vec        // smallest request of its placeable jobs, in each part
	exist     int        // machines that exist, whatever their state, and those this plan creates
	trying    int        // machines being created or starting, whatever else they are, and those this plan creates
	machines  []*machine // that exist
	tally     *tally     // of machines; counted once
	ready     yard       // machines that take tasks now
	coming    yard       // machines that will
	shapes    []*machine // one ready machine of each size
	jobs      []*job     // with pending tasks that may start, by identifier
	classes   map[classKey]*class
	users     map[string]*user
	reserved  *machine
	starved   *need              // first that found no room, here or on any machine that could be made
	stuck     map[string]blocker // by size: why no machine of it can be created
	waiters   [2]*job            // first that waits for room, and first of another user
	noted     blocker            // why it does not grow
	notedSize *dspool.Size
	surplus   []*machine // idle and not needed, longest idle first

	places   int                      // sessions per machine
	guests   []*guest                 // who waits to log in, in order
	promised *guest                   // first of them for whose machine the hosts have no room
	promise  vec                      // what is kept for that of what they have left
	crowd    []*guest                 // those of the guests for whom no place is in sight
	crowdWhy map[string]dspool.Reason // why no machine can be created for them, by the size that they ask for
	eager    map[string]*guest        // first of the crowd, by the same
	kept     []*machine               // for them
}

// need is a machine that somebody waits for and that cannot be created.
type need struct {
	user    string
	job     int64 // 0 where a person waits
	size    *dspool.Size
	blocker blocker
}

// yard is a set of machines with room.
type yard struct {
	all    []*machine
	open   []*machine // those of all with any cpu and memory left
	closed int        // of open, found to be full
	failed []classKey // some of those known not to fit anywhere
	grown  int        // how often room was added
}

func (y *yard) add(m *machine) {
	y.all = append(y.all, m)
	if m.free.cpu > 0 && m.free.mem > 0 { // no task asks for less than some of both
		y.open = append(y.open, m)
		y.failed = y.failed[:0]
		y.grown++
	}
}

// user is a person with what their tasks and sessions hold in a pool.
type user struct {
	name   string
	held   vec
	share  float64
	served int64  // latest of the jobs
	jobs   []*job // still to be looked at
}

type classKey struct {
	req  vec
	size string
}

// class is what all tasks with the same request and size have in common.
type class struct {
	classKey
	create    *dspool.Size // what is created for it; nil if no size of the pool fits
	fullReady int          // ready.grown+1 at which it was known not to fit
	fullNext  int          // coming.grown+1 at which it was known not to fit
	blocker   blocker      // why no machine can be created for it
	barred    *machine     // that has room for it and is kept for a session
	looked    bool         // whether barred is known
}

// job is a job with what the plan gives it.
type job struct {
	*Job
	class  *class
	left   int64 // tasks that may start and have no place, not even on a coming machine
	limit  int64 // tasks that may start
	placed int64 // by this plan
	soon   int64 // tasks that may be placed ahead, or will find room before a new machine is there
	ahead  int64 // how many more of them there may be, once that is known
	known  bool
	spots  []spot     // machines with tasks of it; earlier ones only where it is short
	next   []*machine // coming machines that its tasks wait for
}

// short says whether its tasks are so short that the way to the server and back counts.
func (j *job) short() bool { return j.TaskTime > 0 && j.TaskTime < aheadTaskTime }

// waits says whether some of it would start if there were room.
func (j *job) waits() bool {
	return j.limit > j.placed && j.class != nil && j.class.blocker != noSize
}

// spot is a job's part of a machine.
type spot struct {
	m      *machine
	young  int64 // claims of it that began lately
	queued int64 // attempts placed ahead
	n      int64 // tasks placed by this plan
	more   int64 // tasks placed ahead by this plan
}

func (j *job) spot(m *machine) *spot {
	for i := len(j.spots) - 1; i >= 0; i-- {
		if j.spots[i].m == m {
			return &j.spots[i]
		}
	}
	j.spots = append(j.spots, spot{m: m})
	return &j.spots[len(j.spots)-1]
}

// planner is one computation.
type planner struct {
	s      Snapshot
	now    time.Time
	plan   Plan
	pools  []*pool
	by     map[string]*pool
	jobs   []job // as in the snapshot
	ids    map[int64]*job
	all    []*machine // that exist
	made   []*machine // that this plan creates
	total  vec        // of all machines that exist and those this plan creates
	queue  []queued   // attempts that hold no claim
	guests []guest    // sessions that wait, in order
}

type queued struct {
	*Attempt
	m *machine
}

// wake asks for a new plan at t.
func (p *planner) wake(t time.Time) {
	if t.After(p.now) && (p.plan.WakeAt.IsZero() || t.Before(p.plan.WakeAt)) {
		p.plan.WakeAt = t
	}
}

func (p *planner) destroy(m *machine, reason dspool.Reason) {
	m.destroyed, m.usable = true, false
	p.plan.Destroy = append(p.plan.Destroy, Destroy{Machine: m.Name, Reason: reason})
}
