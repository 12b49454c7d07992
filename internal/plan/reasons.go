package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

type params = dspool.ReasonParams

func why(code dspool.ReasonCode, p params) dspool.Reason { return dspool.Why(code, p) }

// report turns what was decided into actions with their reasons. A reason holds nothing that changes by time
// alone but the back-off's countdown.
func (p *planner) report() {
	p.places()
	for _, m := range p.made {
		reason := m.reason
		switch j, others := m.creator, m.sessions-1; {
		case j != nil:
			n := j.limit - j.placed
			reason = why(dspool.WhyJobWaits, params{Job: j.ID, User: j.User, Count: n, Request: j.Request})
		case m.guest != nil && others > 0:
			reason = why(dspool.WhyUsersWait, params{User: m.guest.User, Count: int64(others)})
		case m.guest != nil:
			reason = why(dspool.WhyUserWaits, params{User: m.guest.User})
		}
		p.plan.Create = append(p.plan.Create, Create{Pool: m.pool.Name, Size: *m.create, Reason: reason})
	}
	reasons := map[*class]dspool.Reason{}
	p.plan.Waiting = make([]Waiting, 0, len(p.jobs))
	for i := range p.jobs {
		j := &p.jobs[i]
		if j.Pending <= j.placed {
			continue
		}
		p.plan.Waiting = append(p.plan.Waiting, Waiting{Job: j.ID, Reason: p.waiting(j, reasons)})
	}
	p.lineUp()
	for _, pl := range p.pools {
		if j := pl.blockedJob(); j != nil {
			pl.note(j.class.blocker, j.class.create)
		}
		if i := slices.IndexFunc(pl.crowd, func(g *guest) bool { return g.blocker != noSize }); i >= 0 {
			pl.note(pl.crowd[i].blocker, pl.crowd[i].size)
		}
		if p.heldWaits(pl) {
			p.plan.Notes = append(p.plan.Notes, Note{Pool: pl.Name, Reason: p.heldBack(pl)})
		} else if b := pl.noted; b != free {
			p.plan.Notes = append(p.plan.Notes, Note{Pool: pl.Name, Reason: p.blocked(pl, b, pl.notedSize)})
		}
	}
}

// places lists what fits before what is placed ahead, so that attempts placed ahead have
// the higher identifiers: machines start attempts in that order, and those ahead must not
// take the room of those that fit.
func (p *planner) places() {
	var ahead []Place
	for i := range p.jobs {
		j := &p.jobs[i]
		slices.SortFunc(j.spots, func(a, b spot) int { return cmp.Compare(a.m.index, b.m.index) })
		for _, s := range j.spots {
			if s.n > 0 {
				p.plan.Place = append(p.plan.Place, Place{Job: j.ID, Machine: s.m.Name, Count: int(s.n), Try: !p.by[j.Pool].Held.IsZero(), Reason: why(dspool.WhyHasRoom, params{Machine: s.m.Name})})
			}
			if s.more > 0 {
				ahead = append(ahead, Place{Job: j.ID, Machine: s.m.Name, Count: int(s.more),
					Reason: why(dspool.WhyPlacedAhead, params{Machine: s.m.Name, Time: brief(j.TaskTime)})})
			}
		}
	}
	p.plan.Place = append(p.plan.Place, ahead...)
}

// blockedJob returns the first job for which a machine should be created and cannot.
func (pl *pool) blockedJob() *job {
	for _, j := range pl.jobs {
		if j.left > 0 && j.waits() && j.class.blocker != free {
			return j
		}
	}
	return nil
}

// note remembers why the pool does not grow; a person's need comes before a job's, and that
// before min and spare.
func (pl *pool) note(b blocker, size *dspool.Size) { pl.noted, pl.notedSize = b, size }

// waiting says why the job's pending tasks wait.
func (p *planner) waiting(j *job, reasons map[*class]dspool.Reason) dspool.Reason {
	pl := p.by[j.Pool]
	switch {
	case !j.Blocked.IsZero():
		return j.Blocked
	case pl == nil:
		return why(dspool.WhyNoPool, params{Pool: j.Pool})
	case j.limit == j.placed && pl.Held.IsZero(): // so it is MaxRunning that holds the others back
		return why(dspool.WhyMaxRunning, params{Count: j.Placed + j.placed, Limit: int64(j.MaxRunning)})
	}
	kept := pl.reserved
	switch {
	case !pl.Held.IsZero():
		return p.heldBack(pl)
	case kept != nil && kept.reserved != j && j.class.req.fits(kept.free) && (j.Size == "" || j.Size == kept.size):
		return why(dspool.WhyMachineReserved, params{Machine: kept.Name, Job: kept.reserved.ID, User: kept.reserved.User})
	case pl.barred(j.class) != nil:
		m := pl.barred(j.class)
		return why(dspool.WhyMachineKept, params{Machine: m.Name, User: m.kept.User})
	case len(j.next) > 0:
		return why(dspool.WhyMachineStarting, params{Count: int64(len(j.next))})
	case kept != nil && kept.reserved == j:
		return why(dspool.WhyRoomReserved, params{Machine: kept.Name})
	case j.soon > 0 && j.left == 0:
		return why(dspool.WhyShortTasks, params{})
	}
	reason, ok := reasons[j.class]
	if !ok {
		reason = p.unplaced(pl, j.class)
		reasons[j.class] = reason
	}
	return reason
}

// unplaced says why tasks of a class have neither room nor a machine to come.
func (p *planner) unplaced(pl *pool, c *class) dspool.Reason {
	switch {
	case c.blocker == poolMax:
		return pl.census(c, dspool.WhyPoolMaxBusy)
	case c.blocker != noSize:
		return p.blocked(pl, c.blocker, c.create)
	case c.size == "":
		return why(dspool.WhyFitsNoSize, params{Request: c.req.resources(), Pool: pl.Name})
	}
	for _, s := range pl.Sizes {
		if s.Name == c.size {
			return why(dspool.WhyFitsNotSize, params{Request: c.req.resources(), Size: s.Name, Capacity: s.Resources})
		}
	}
	return why(dspool.WhyNoSize, params{Pool: pl.Name, Size: c.size})
}

// blocked says why no machine can be created.
func (p *planner) blocked(pl *pool, b blocker, size *dspool.Size) dspool.Reason {
	switch b {
	case poolBlocked:
		return pl.Blocked
	case backoff:
		left := pl.BackoffUntil.Sub(p.now)
		return why(dspool.WhyBackoff, params{Time: seconds(left + time.Second - 1)}).With(pl.LastFailure)
	case probing:
		return why(dspool.WhyProbing, params{}).With(pl.LastFailure)
	case poolMax:
		return pl.atMax()
	case providerMax:
		code := dspool.WhyProviderMax
		if len(p.all)+len(p.made) < p.s.MaxMachines {
			code = dspool.WhyProviderKept
		}
		return why(code, params{Limit: int64(p.s.MaxMachines)})
	case hostsTooSmall:
		return why(dspool.WhyHostsTooSmall, params{Size: size.Name, Request: size.Resources, Capacity: p.s.Capacity})
	case hostsFull:
		return p.full(size)
	case hostsPromised:
		return why(dspool.WhyHostsPromised, params{Size: size.Name, User: pl.promised.User, Name: pl.promised.size.Name})
	}
	return why(dspool.WhyWaitsForRoom, params{})
}

// full names the resource that the hosts lack.
func (p *planner) full(size *dspool.Size) dspool.Reason {
	of := params{Size: size.Name, Used: p.total.resources(), Capacity: p.s.Capacity}
	one, whole := toVec(size.Resources), toVec(p.s.Capacity)
	switch left := whole.plus(p.total, -1); {
	case one.cpu > left.cpu:
		return why(dspool.WhyHostsCPUs, of)
	case one.mem > left.mem:
		return why(dspool.WhyHostsMemory, of)
	case one.gpu > left.gpu:
		return why(dspool.WhyHostsGPUs, of)
	}
	return why(dspool.WhyHostsKept, params{Size: size.Name})
}

// barred returns a machine that is kept for a session and has room for the class, or nil.
func (pl *pool) barred(c *class) *machine {
	if !c.looked {
		c.looked = true
		i := slices.IndexFunc(pl.kept, func(m *machine) bool { return c.req.fits(m.free) && (c.size == "" || c.size == m.size) })
		if i >= 0 {
			c.barred = pl.kept[i]
		}
	}
	return c.barred
}

// lineUp says of every session that still waits why, and at which place in its pool.
func (p *planner) lineUp() {
	positions := map[string]int{}
	p.plan.Queue = make([]Queued, 0, len(p.guests))
	for i := range p.guests {
		g := &p.guests[i]
		if g.seated {
			continue
		}
		positions[g.Pool]++
		p.plan.Queue = append(p.plan.Queue, Queued{Session: g.ID, Position: positions[g.Pool], Reason: p.queued(g)})
	}
}

func (p *planner) queued(g *guest) dspool.Reason {
	pl := p.by[g.Pool]
	switch {
	case pl == nil:
		return why(dspool.WhyNoPool, params{Pool: g.Pool})
	case g.next != nil && g.next.Machine == nil:
		return why(dspool.WhyCreating, params{})
	case g.next != nil:
		return why(dspool.WhyComing, params{Machine: g.next.Name})
	case g.blocker == noSize:
		return why(dspool.WhyNoSize, params{Pool: pl.Name, Size: g.Size})
	case g.kept != nil:
		return why(dspool.WhyWaitsForTasks, params{Machine: g.kept.Name}).With(p.blocked(pl, g.blocker, g.size))
	}
	reason, ok := pl.crowdWhy[g.Size]
	if !ok {
		if pl.crowdWhy == nil {
			pl.crowdWhy = map[string]dspool.Reason{}
		}
		reason = p.crowded(pl, g)
		pl.crowdWhy[g.Size] = reason
	}
	return reason
}

// crowded says why no machine can be created for somebody.
func (p *planner) crowded(pl *pool, g *guest) dspool.Reason {
	reason := p.blocked(pl, g.blocker, g.size)
	if g.blocker == poolMax {
		reason = pl.census(&class{classKey: classKey{size: g.Size}}, dspool.WhyPoolMaxPlaces)
	}
	if g.Size != "" && (g.blocker == poolMax || g.blocker == providerMax) { // the others name it
		reason = why(dspool.WhyWaitsForSize, params{Size: g.Size}).With(reason)
	}
	return reason
}

func seconds(d time.Duration) dspool.Duration { return dspool.Duration(d.Truncate(time.Second)) }

// brief rounds a run time to what is worth reading.
func brief(d time.Duration) dspool.Duration {
	if d >= time.Millisecond {
		return dspool.Duration(d.Round(time.Millisecond))
	}
	return dspool.Duration(d.Round(time.Microsecond))
}
