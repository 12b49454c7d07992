package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

func newPlanner(s Snapshot, now time.Time) *planner {
	p := &planner{s: s, now: now, by: make(map[string]*pool, len(s.Pools)), ids: make(map[int64]*job, len(s.Jobs))}
	for i := range s.Pools {
		pl := &pool{Pool: &s.Pools[i], classes: map[classKey]*class{}, users: map[string]*user{}, stuck: map[string]blocker{}, places: s.Pools[i].Policy.SessionsPerMachine}
		if pl.places <= 0 {
			pl.places = placesUnset
		}
		for _, size := range pl.Sizes {
			pl.whole = pl.whole.upTo(toVec(size.Resources))
		}
		pl.whole = vec{}.plus(pl.whole, int64(max(pl.Max, 1)))
		p.pools = append(p.pools, pl)
		p.by[pl.Name] = pl
	}
	p.jobs = make([]job, len(s.Jobs))
	for i := range s.Jobs {
		p.jobs[i].Job = &s.Jobs[i]
		p.ids[s.Jobs[i].ID] = &p.jobs[i]
	}
	p.addMachines()
	p.addSessions()
	p.addJobs()
	return p
}

func (p *planner) addMachines() {
	store := make([]machine, len(p.s.Machines))
	seated := map[string][]*Session{}
	for i := range p.s.Sessions {
		if s := &p.s.Sessions[i]; s.State != dspool.SessionWaiting && s.State != dspool.SessionClosed {
			seated[s.Machine] = append(seated[s.Machine], s)
		}
	}
	for i := range p.s.Machines {
		src := &p.s.Machines[i]
		if src.State.Ended() {
			continue
		}
		m := &store[i]
		*m = machine{Machine: src, pool: p.by[src.Pool], index: i, size: src.Size, total: toVec(src.Resources), busy: len(src.Attempts)+len(seated[src.Name]) > 0}
		p.all = append(p.all, m)
		p.total = p.total.plus(m.total, 1)
		m.free = m.total
		for _, s := range seated[src.Name] {
			m.sit(s)
		}
		p.claim(m)
		pl := m.pool
		if pl == nil {
			continue
		}
		pl.exist++
		pl.machines = append(pl.machines, m)
		m.coming = src.State == dspool.Creating || src.State == dspool.Starting
		if m.coming {
			pl.trying++
		}
		m.usable = !(pl.Policy.Sudo && src.Used) && !src.Cordoned && src.DrainBy == nil && src.Remove.IsZero() &&
			(m.coming || src.State == dspool.Ready && src.Health == dspool.Healthy)
		if src.FaultUntil.After(p.now) {
			m.usable = false
			p.wake(src.FaultUntil)
		}
	}
}

// claim finds which attempts of a machine hold its resources beside its sessions: running
// ones, and of the others, in order, those that fit.
func (p *planner) claim(m *machine) {
	attempts := m.Attempts
	byID := func(a, b Attempt) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(attempts, byID) {
		attempts = slices.Clone(attempts)
		slices.SortFunc(attempts, byID)
	}
	waiting := false
	for i := range attempts {
		if attempts[i].Running {
			p.hold(m, &attempts[i])
		} else {
			waiting = true
		}
	}
	for i := range attempts {
		if !waiting {
			break
		}
		a := &attempts[i]
		if a.Running {
			continue
		}
		if toVec(a.Request).fits(m.free) {
			p.hold(m, a)
			continue
		}
		m.ahead++
		m.recalled = m.recalled || a.Recall
		p.queue = append(p.queue, queued{a, m})
		if j := p.ids[a.Job]; j != nil && j.short() {
			j.spot(m).queued++
		}
	}
	m.fill = m.free.share(m.total)
}

func (p *planner) hold(m *machine, a *Attempt) {
	req := toVec(a.Request)
	m.free = m.free.plus(req, -1)
	j := p.ids[a.Job]
	if j == nil {
		return
	}
	if m.pool != nil {
		u := m.pool.user(j.User)
		u.held = u.held.plus(req, 1)
	}
	if j.short() && !a.Recall && p.now.Sub(a.Since) < aheadLimit {
		j.spot(m).young++
	}
}

func (pl *pool) user(name string) *user {
	u := pl.users[name]
	if u == nil {
		u = &user{name: name}
		pl.users[name] = u
	}
	return u
}

func (p *planner) addJobs() {
	for i := range p.jobs {
		j := &p.jobs[i]
		pl := p.by[j.Pool]
		if j.Pending <= 0 || !j.Blocked.IsZero() || pl == nil {
			continue
		}
		j.limit = j.Pending
		if j.MaxRunning > 0 {
			j.limit = min(j.limit, max(0, int64(j.MaxRunning)-j.Placed))
		}
		if j.limit == 0 {
			continue
		}
		j.left = j.limit
		j.class = pl.class(toVec(j.Request), j.Size)
		pl.jobs = append(pl.jobs, j)
	}
	for _, pl := range p.pools {
		slices.SortStableFunc(pl.jobs, func(a, b *job) int { return cmp.Compare(a.ID, b.ID) })
		if !pl.Held.IsZero() {
			p.holdBack(pl)
		}
	}
}

func (pl *pool) class(req vec, size string) *class {
	key := classKey{req, size}
	c := pl.classes[key]
	if c != nil {
		return c
	}
	c = &class{classKey: key}
	for i := range pl.Sizes {
		if s := &pl.Sizes[i]; (size == "" || size == s.Name) && req.fits(toVec(s.Resources)) {
			c.create = s
			break
		}
	}
	if len(pl.classes) == 0 {
		pl.least = req
	}
	pl.least = vec{min(pl.least.cpu, req.cpu), min(pl.least.mem, req.mem), min(pl.least.gpu, req.gpu)}
	pl.classes[key] = c
	return c
}
