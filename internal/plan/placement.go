package plan

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"
)

const (
	// reserveAfter is how long a task must have waited before a machine is kept free for it.
	reserveAfter = 30 * time.Second
	// quantum is the least part of a pool that a user gets in one turn, which
	// bounds the number of turns however small the tasks are.
	quantum = 1.0 / 1024
)

// Compute decides what should happen. It does not modify s, and the same s and now
// give the same plan. Attempts must be made in the order of Place, since machines start
// them in the order of their identifiers. Its cost grows with machines, attempts, jobs and sessions, never with
// the number of pending tasks.
func Compute(s Snapshot, now time.Time) Plan {
	p := newPlanner(s, now)
	p.closeSessions()
	p.drain()
	p.shrink()
	for _, m := range p.all {
		switch {
		case !m.usable:
		case m.coming:
			m.pool.coming.add(m)
		default:
			m.pool.ready.add(m)
			m.pool.addShape(m)
		}
	}
	// A pool with few machines gets its next one before a pool with many.
	order := slices.Clone(p.pools)
	slices.SortStableFunc(order, func(a, b *pool) int { return cmp.Compare(a.exist, b.exist) })
	for _, pl := range order {
		p.seat(pl)
	}
	for _, pl := range order {
		p.fill(pl)
	}
	for _, pl := range p.pools {
		p.keep(pl)
	}
	for _, pl := range p.pools {
		p.idle(pl)
	}
	p.makeRoom()
	for _, pl := range p.pools {
		pl.findWaiters()
	}
	p.recall()
	for _, pl := range p.pools {
		p.placeAhead(pl)
	}
	p.report()
	return p.plan
}

// fill gives the pool's tasks a place: on a machine with room, on one that is
// coming, or on a new one. Users take turns, the one with the least share first.
func (p *planner) fill(pl *pool) {
	var turns users
	for _, j := range pl.jobs {
		u := pl.user(j.User)
		if u.jobs == nil {
			u.share = u.held.share(pl.whole)
			turns = append(turns, u)
		}
		u.served = max(u.served, j.Served)
		u.jobs = append(u.jobs, j)
	}
	heap.Init(&turns)
	for len(turns) > 0 {
		u := turns[0]
		j := u.jobs[0]
		n := j.left
		if len(turns) > 1 {
			rival := turns[1]
			if len(turns) > 2 && turns.Less(2, 1) {
				rival = turns[2]
			}
			if one := j.class.req.share(pl.whole); one > 0 {
				n = min(n, max(1, int64(math.Ceil(max(rival.share-u.share, quantum)/one))))
			}
		}
		got := p.assign(pl, j, n)
		u.held = u.held.plus(j.class.req, got)
		u.share = u.held.share(pl.whole)
		if got < n || j.left == 0 {
			u.jobs = u.jobs[1:]
		}
		if len(u.jobs) == 0 {
			heap.Pop(&turns)
		} else {
			heap.Fix(&turns, 0)
		}
	}
}

// users is a heap: the least share first, then the one that was served longest ago (else, where
// one task fills the pool, the lowest job's user would have every turn), then the lowest job.
type users []*user

func (h users) Len() int      { return len(h) }
func (h users) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h users) Less(i, k int) bool {
	if h[i].share != h[k].share {
		return h[i].share < h[k].share
	}
	if h[i].served != h[k].served {
		return h[i].served < h[k].served
	}
	return h[i].jobs[0].ID < h[k].jobs[0].ID
}
func (h *users) Push(x any) { *h = append(*h, x.(*user)) }
func (h *users) Pop() any {
	last := len(*h) - 1
	u := (*h)[last]
	*h = (*h)[:last]
	return u
}

// assign finds places for n of the job's tasks and returns for how many it did.
func (p *planner) assign(pl *pool, j *job, n int64) int64 {
	got := pl.ready.spread(j, &j.class.fullReady, n, func(m *machine, k int64) {
		j.spot(m).n += k
		j.placed += k
	})
	if got < n && j.short() {
		got += j.expect(n - got)
	}
	if got < n {
		got += pl.coming.spread(j, &j.class.fullNext, n-got, func(m *machine, k int64) { j.waitFor(m) })
	}
	if got < n {
		got += p.createFor(pl, j, n-got)
	}
	j.left -= got
	if got < n {
		if pl.starved == nil && j.class.blocker.byOthers() {
			pl.starved = &need{user: j.User, job: j.ID, size: j.class.create, blocker: j.class.blocker}
		}
		p.reserve(pl, j)
	}
	return got
}

func (j *job) waitFor(m *machine) {
	if !slices.Contains(j.next, m) {
		j.next = append(j.next, m)
	}
}

// spread gives n tasks to the machines of the yard, fullest first, and returns how
// many found room. full remembers that the class found none.
func (y *yard) spread(j *job, full *int, n int64, took func(*machine, int64)) int64 {
	c := j.class
	if len(y.open) == 0 || *full == y.grown+1 || y.knownFull(c) {
		return 0
	}
	take := func(m *machine, k int64) {
		y.give(m, c.req, k)
		took(m, k)
	}
	var best *machine
	fitting := 0
	for _, m := range y.open {
		if m.takes(j) {
			fitting++
			if best == nil || fuller(m, best) < 0 {
				best = m
			}
		}
	}
	got := int64(0)
	switch {
	case best == nil:
	case fitting == 1 || c.req.count(best.free) >= n:
		got = min(n, c.req.count(best.free))
		take(best, got)
	default:
		list := make([]*machine, 0, fitting)
		for _, m := range y.open {
			if m.takes(j) {
				list = append(list, m)
			}
		}
		slices.SortFunc(list, fuller)
		for _, m := range list {
			if got == n {
				break
			}
			k := min(n-got, c.req.count(m.free))
			take(m, k)
			got += k
		}
	}
	if got < n {
		*full = y.grown + 1
		if len(y.failed) < 32 {
			y.failed = append(y.failed, c.classKey)
		}
	}
	if y.closed*2 > len(y.open) {
		y.open = slices.DeleteFunc(y.open, func(m *machine) bool { return m.free.cpu <= 0 || m.free.mem <= 0 })
		y.closed = 0
	}
	return got
}

// knownFull says whether something smaller has already found no room.
func (y *yard) knownFull(c *class) bool {
	for _, f := range y.failed {
		if f.req.fits(c.req) && (f.size == "" || f.size == c.size) {
			return true
		}
	}
	return false
}

// takes says whether one task of j fits the machine now.
func (m *machine) takes(j *job) bool {
	c := j.class
	return c.req.fits(m.free) && (c.size == "" || c.size == m.size) && m.kept == nil && (m.reserved == nil || m.reserved == j)
}

// addShape remembers one machine of each size and total.
func (pl *pool) addShape(m *machine) {
	if !slices.ContainsFunc(pl.shapes, func(o *machine) bool { return o.size == m.size && o.total == m.total }) {
		pl.shapes = append(pl.shapes, m)
	}
}

// reserve keeps a machine free for a job that found no room anywhere, so that
// smaller tasks do not take for ever what becomes free. One per pool, and only where
// there are smaller tasks.
func (p *planner) reserve(pl *pool, j *job) {
	req := j.class.req
	if pl.reserved != nil || req.fits(pl.least) {
		return
	}
	if !slices.ContainsFunc(pl.shapes, func(m *machine) bool { return req.fits(m.total) && (j.Size == "" || j.Size == m.size) }) {
		return
	}
	if at := j.Created.Add(reserveAfter); p.now.Before(at) {
		p.wake(at)
		return
	}
	var best *machine
	lack := 0.0
	for _, m := range pl.ready.all {
		if m.kept != nil || !req.fits(m.total) || (j.Size != "" && j.Size != m.size) {
			continue
		}
		if l := req.plus(m.free, -1).share(m.total); best == nil || l < lack {
			best, lack = m, l
		}
	}
	if best != nil {
		best.reserved = j
		pl.reserved = best
	}
}
