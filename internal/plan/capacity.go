package plan

import (
	"cmp"
	"slices"

	"github.com/dspool/dspool"
)

// blocker is why no machine can be created.
type blocker int

const (
	free          blocker = iota
	noSize                // no size of the pool fits one task
	poolBlocked           // such as an image that is not built
	backoff               // creating failed lately
	probing               // creating failed, and one machine is tried first
	poolMax               // the pool's max is reached
	providerMax           // the provider's limit is reached
	hostsFull             // the hosts have no room
	hostsPromised         // what they have is kept for somebody who waits for a larger machine
	hostsTooSmall         // and would have none if they were empty
)

// byOthers says whether the blocker goes away when other machines go.
func (b blocker) byOthers() bool {
	return b == poolMax || b == providerMax || b == hostsFull || b == hostsPromised
}

// room returns how many machines of a size the pool may create now and, if none, why.
func (p *planner) room(pl *pool, size *dspool.Size) (int, blocker) {
	if b := pl.stuck[size.Name]; b != free {
		return 0, b
	}
	n, b := p.findRoom(pl, size)
	if n > 0 {
		return n, free
	}
	pl.stuck[size.Name] = b // nothing in a plan makes room again
	return 0, b
}

func (p *planner) findRoom(pl *pool, size *dspool.Size) (int, blocker) {
	n := pl.Max - pl.exist
	switch {
	case !pl.Blocked.IsZero():
		return 0, poolBlocked
	case pl.BackoffUntil.After(p.now):
		p.wake(pl.BackoffUntil)
		return 0, backoff
	case n <= 0:
		return 0, poolMax
	}
	if !pl.LastFailure.IsZero() {
		if n = min(n, 1-pl.trying); n <= 0 {
			return 0, probing
		}
	}
	one := toVec(size.Resources)
	capacity := toVec(p.s.Capacity)
	if !one.fits(capacity) {
		return 0, hostsTooSmall
	}
	others, machines := p.keptForOthers(pl)
	if p.s.MaxMachines > 0 {
		if n = min(n, p.s.MaxMachines-len(p.all)-len(p.made)-machines); n <= 0 {
			return 0, providerMax
		}
	}
	left := capacity.plus(p.total, -1).plus(others, -1)
	if n = int(min(int64(n), one.count(left))); n <= 0 {
		return 0, hostsFull
	}
	unpromised := left.plus(pl.promise, -1).upTo(vec{}) // what a machine needs none of, it may lack
	if n = int(min(int64(n), one.count(unpromised))); n <= 0 {
		return 0, hostsPromised
	}
	return n, free
}

// keptForOthers returns what other pools need to reach their min: it is theirs.
func (p *planner) keptForOthers(pl *pool) (sum vec, machines int) {
	for _, o := range p.pools {
		if o != pl && len(o.Sizes) > 0 {
			n := o.belowMin()
			sum = sum.plus(toVec(o.Sizes[0].Resources), int64(n))
			machines += n
		}
	}
	return sum, machines
}

// belowMin returns how many machines the pool lacks to its min and could make.
func (pl *pool) belowMin() int {
	if !pl.Blocked.IsZero() || !pl.LastFailure.IsZero() {
		return 0
	}
	return max(0, min(pl.Min-pl.size(), pl.Max-pl.exist))
}

// size returns the number of machines that take tasks or will.
func (pl *pool) size() int {
	n := 0
	for _, y := range []*yard{&pl.ready, &pl.coming} {
		for _, m := range y.all {
			if !m.destroyed {
				n++
			}
		}
	}
	return n
}

// createFor creates machines for n tasks of the job, as far as it may, and returns
// for how many tasks they have room.
func (p *planner) createFor(pl *pool, j *job, n int64) int64 {
	c := j.class
	if c.blocker != free {
		return 0
	}
	if c.create == nil {
		c.blocker = noSize
		return 0
	}
	got := int64(0)
	for got < n {
		room, b := p.room(pl, c.create)
		if room == 0 {
			c.blocker = b
			break
		}
		per := c.req.count(toVec(c.create.Resources))
		for k := min(int64(room), (n-got-1)/per+1); k > 0; k-- {
			m := p.create(pl, c.create)
			m.creator = j
			took := min(per, n-got)
			m.give(c.req, took)
			got += took
			j.waitFor(m)
			pl.coming.add(m)
		}
	}
	return got
}

func (p *planner) create(pl *pool, size *dspool.Size) *machine {
	m := &machine{pool: pl, index: len(p.s.Machines) + len(p.made), size: size.Name, total: toVec(size.Resources), usable: true, coming: true, create: size}
	m.free = m.total
	m.fill = m.free.share(m.total)
	p.made = append(p.made, m)
	p.total = p.total.plus(m.total, 1)
	pl.exist++
	pl.trying++
	return m
}

// keep creates what the pool lacks to its min and its spare machines.
func (p *planner) keep(pl *pool) {
	if len(pl.Sizes) == 0 {
		return
	}
	size := &pl.Sizes[0]
	// A machine that its own tasks or people wait for comes before one that nobody needs yet.
	if lack := pl.Min - pl.size(); lack > 0 && pl.starved == nil {
		p.keepUp(pl, size, lack, why(dspool.WhyKeepsMin, params{Pool: pl.Name, Count: int64(pl.Min)}))
	}
	lack := pl.Spare - pl.unclaimed()
	if lack > 0 && !slices.ContainsFunc(p.pools, func(o *pool) bool { return o.starved != nil && (o == pl || o.starved.blocker != poolMax) }) {
		p.keepUp(pl, size, lack, why(dspool.WhyKeepsSpare, params{Pool: pl.Name, Count: int64(pl.Spare)}))
	}
}

func (p *planner) keepUp(pl *pool, size *dspool.Size, lack int, reason dspool.Reason) {
	for ; lack > 0; lack-- {
		n, b := p.room(pl, size)
		if n == 0 {
			// A spare machine beyond max is not one that the pool should have.
			if b != poolMax {
				pl.note(b, size)
			}
			return
		}
		m := p.create(pl, size)
		m.reason = reason
		pl.coming.add(m)
	}
}

// unclaimed returns the number of machines that nobody uses or waits for.
func (pl *pool) unclaimed() int {
	n := 0
	for _, y := range []*yard{&pl.ready, &pl.coming} {
		for _, m := range y.all {
			if !m.destroyed && !m.busy {
				n++
			}
		}
	}
	return n
}

// makeRoom destroys idle machines before their time where they are in the way of a
// machine that somebody waits for: those of the same pool and, for its first machine, what
// other pools have beyond min and spare. One new machine's worth at a time.
func (p *planner) makeRoom() {
	for _, pl := range p.pools {
		need := pl.starved
		if need == nil {
			continue
		}
		if p.leaving(pl, need.blocker) {
			continue
		}
		for _, m := range p.inTheWay(pl, need) {
			reason := why(dspool.WhyMakesRoomUser, params{Size: need.size.Name, Pool: pl.Name, Job: need.job, User: need.user})
			if need.job != 0 {
				reason.Code = dspool.WhyMakesRoomJob
			}
			p.destroy(m, reason)
		}
	}
}

// leaving says whether a machine is going that may leave room enough for one of the pool.
func (p *planner) leaving(pl *pool, why blocker) bool {
	return slices.ContainsFunc(p.all, func(m *machine) bool {
		return (m.destroyed || m.State == dspool.Destroying) && (m.pool == pl || why != poolMax)
	})
}

// inTheWay returns the idle machines that must go for one that is needed; none where the hosts would have no
// room for it all the same.
func (p *planner) inTheWay(pl *pool, need *need) []*machine {
	var list []*machine
	for _, o := range p.pools {
		switch {
		case o == pl:
			list = append(list, o.idleMachines()...)
		case need.blocker != poolMax && pl.size() == 0:
			list = append(list, o.surplus...)
		}
	}
	list = slices.DeleteFunc(list, func(m *machine) bool { return m.destroyed })
	slices.SortFunc(list, longestIdle)
	one := toVec(need.size.Resources)
	others, _ := p.keptForOthers(pl)
	left := toVec(p.s.Capacity).plus(p.total, -1).plus(others, -1)
	if need.blocker != hostsFull && one.fits(left) {
		return list[:min(1, len(list))]
	}
	for i, m := range list {
		if left = left.plus(m.total, 1); !one.fits(left) {
			continue
		}
		// Those whose part is not needed after all stay.
		return slices.DeleteFunc(list[:i+1], func(m *machine) bool {
			without := left.plus(m.total, -1)
			if one.fits(without) {
				left = without
				return true
			}
			return false
		})
	}
	return nil
}

func longestIdle(a, b *machine) int {
	return cmp.Or(a.IdleSince.Compare(b.IdleSince), cmp.Compare(a.index, b.index))
}
