package plan

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/dspool/dspool"
)

const (
	placesUnset = 4 // sessions on one machine where the pool does not say
	mib         = 1 << 20
)

// seat gives those who wait to log in a place, in the order in which they came. All
// sessions come before all tasks, for room and for new machines: people wait, jobs can.
// Nothing that runs makes way for them.
//
// Who asks for a size gets a machine of that size or none. Where it has no place, those behind who want
// another size, or any, are not held up: the place that they get would be of no use to who came first. What
// is of use to both is the first one's: places on machines of that size, and what the pool's max, the
// provider and the hosts leave for new machines of whatever size.
//
// A machine takes sessions up to the pool's sessions per machine, and each holds that
// part of it. Of machines with a place, those come first where somebody is logged in
// already, the one with the fewest people before the others; then those in use by tasks;
// then those that nobody uses. So an empty machine is not given to the next person while
// another has a place: a session stays where it is for days, and with one person on each
// machine a pool would grow to its max whatever its sessions per machine, every taken spare
// would be replaced by a new one, and no machine would empty out when people leave, so that
// the pool could not shrink until the last of them were gone. Nobody loses by it what was
// promised, since the part that a session holds is its own. Who wants a machine for each person
// says sessions_per_machine: 1.
func (p *planner) seat(pl *pool) {
	if len(pl.guests) == 0 {
		return
	}
	pl.crowd = p.awaitNext(pl, p.seatOnReady(pl, pl.guests))
	if len(pl.crowd) == 0 {
		return
	}
	pl.eager = map[string]*guest{}
	for _, g := range pl.crowd {
		if pl.eager[g.Size] == nil {
			pl.eager[g.Size] = g
		}
	}
	pl.keepForCrowd()
	if i := slices.IndexFunc(pl.crowd, func(g *guest) bool { return g.blocker.byOthers() }); i >= 0 {
		g := pl.crowd[i]
		pl.starved = &need{user: g.User, size: g.size, blocker: g.blocker}
		p.empty(pl, g)
	}
}

// place returns the part of a machine that a session in this pool holds.
func (pl *pool) place(m *machine) vec {
	n := int64(pl.places)
	part := vec{m.total.cpu / n, m.total.mem / n, m.total.gpu / n}
	if part.mem > mib {
		part.mem -= part.mem % mib
	}
	return part
}

// hasPlace says whether one more session finds a place on the machine now.
func (pl *pool) hasPlace(m *machine) bool { return m.sessions < pl.places && pl.place(m).fits(m.free) }

// seatOnReady returns those for whom no machine has a place now.
func (p *planner) seatOnReady(pl *pool, wait []*guest) (left []*guest) {
	var halls halls
	for _, m := range pl.ready.all {
		if pl.hasPlace(m) {
			halls.add(m)
		}
	}
	for _, h := range halls {
		heap.Init(&h.seats)
	}
	for i, g := range wait {
		h := halls.best(g.Size)
		if h == nil && g.Size == "" { // there is no place at all
			return append(left, wait[i:]...)
		}
		if h == nil {
			left = append(left, g)
			continue
		}
		m := h.seats[0]
		g.seated = true
		part := pl.place(m)
		pl.ready.seat(m, part)
		p.plan.Seat = append(p.plan.Seat, Seat{Session: g.ID, Machine: m.Name, Request: part.resources(),
			Reason: why(dspool.WhyHasPlace, params{Machine: m.Name, Count: int64(m.sessions), Limit: int64(pl.places)})})
		if pl.hasPlace(m) {
			heap.Fix(&h.seats, 0)
		} else {
			heap.Pop(&h.seats)
		}
	}
	return left
}

// halls are the machines with a place, by size: of sizes a pool has few.
type halls []*hall

type hall struct {
	size string
	seats
}

func (h *halls) add(m *machine) {
	i := slices.IndexFunc(*h, func(x *hall) bool { return x.size == m.size })
	if i < 0 {
		i = len(*h)
		*h = append(*h, &hall{size: m.size})
	}
	(*h)[i].seats = append((*h)[i].seats, m)
}

// best is where the next place of a size is, "" being any; nil if there is none.
func (h halls) best(size string) *hall {
	var best *hall
	for _, x := range h {
		if len(x.seats) > 0 && (size == "" || size == x.size) && (best == nil || emptier(x.seats[0], best.seats[0]) < 0) {
			best = x
		}
	}
	return best
}

// seats is a heap of machines with a place, as seat orders them.
type seats []*machine

func (h seats) Len() int           { return len(h) }
func (h seats) Swap(i, k int)      { h[i], h[k] = h[k], h[i] }
func (h seats) Less(i, k int) bool { return emptier(h[i], h[k]) < 0 }
func (h *seats) Push(x any)        { *h = append(*h, x.(*machine)) }
func (h *seats) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	*h = (*h)[:last]
	return m
}

func emptier(a, b *machine) int {
	rank := func(m *machine) int {
		switch {
		case m.sessions > 0:
			return 0
		case m.busy:
			return 1
		case len(m.pool.Sizes) > 0 && m.size == m.pool.Sizes[0].Name: // what people expect
			return 2
		}
		return 3
	}
	if c := cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.sessions, b.sessions)); c != 0 {
		return c
	}
	if a.busy {
		return cmp.Or(cmp.Compare(b.fill, a.fill), cmp.Compare(a.index, b.index))
	}
	return fuller(a, b)
}

// seat takes the room of one more session.
func (y *yard) seat(m *machine, part vec) {
	y.give(m, part, 1)
	m.people = m.people.plus(part, 1)
	m.sessions++
}

// first returns the first machine of the list that g takes and that has what is needed. One that has it no
// more never gets it back in this plan, so that every machine is passed over once for a size; at remembers
// how far.
func (g *guest) first(list []*machine, at map[string]int, has func(*machine) bool) *machine {
	for ; at[g.Size] < len(list); at[g.Size]++ {
		if m := list[at[g.Size]]; g.takes(m) && has(m) {
			return m
		}
	}
	return nil
}

// awaitNext gives those who wait the places of machines that are starting, the oldest
// first, creates machines for the others, as far as the pool may, and returns those for whom there is none.
func (p *planner) awaitNext(pl *pool, wait []*guest) (crowd []*guest) {
	at := map[string]int{}
	var size *dspool.Size
	room := 0 // for more machines of it
	for _, g := range wait {
		m := g.first(pl.coming.all, at, pl.hasPlace)
		if m == nil {
			g.size, g.blocker = pl.sizeFor(g), noSize
			if g.size != nil && (room == 0 || g.size != size) {
				size = g.size
				room, g.blocker = p.room(pl, size)
			}
			if g.size == nil || room == 0 {
				if g.blocker == hostsFull && pl.promised == nil {
					pl.promised, pl.promise = g, toVec(g.size.Resources)
				}
				crowd = append(crowd, g)
				continue
			}
			room--
			g.blocker = free
			m = p.create(pl, g.size)
			m.guest = g
			pl.coming.add(m)
		}
		g.next = m
		pl.coming.seat(m, pl.place(m))
	}
	if g := pl.promised; g != nil && g.Size == "" {
		pl.promise = vec{} // tasks may have a machine that is smaller than the pool's first size
	}
	return crowd
}

// sizeFor is the size of a machine that is created for g; nil if the pool has none such.
func (pl *pool) sizeFor(g *guest) *dspool.Size {
	for i := range pl.Sizes {
		if g.Size == "" || g.Size == pl.Sizes[i].Name {
			return &pl.Sizes[i]
		}
	}
	return nil
}

// keepForCrowd keeps machines in use by tasks free of more of them, as many as those who
// found no place need: else smaller tasks would for ever take what becomes free. First
// those that lack the least.
func (pl *pool) keepForCrowd() {
	var list []*machine
	lack, places := map[*machine]float64{}, map[*machine]int64{}
	for _, m := range pl.ready.all {
		part := pl.place(m)
		n := min(int64(pl.places-m.sessions), part.count(m.total.plus(m.people, -1)))
		if n > 0 { // once its tasks are gone
			list = append(list, m)
			lack[m], places[m] = part.plus(m.free, -1).share(m.total), n
		}
	}
	slices.SortFunc(list, func(a, b *machine) int {
		return cmp.Or(cmp.Compare(lack[a], lack[b]), cmp.Compare(a.index, b.index))
	})
	at := map[string]int{}
	for _, g := range pl.crowd {
		m := g.first(list, at, func(m *machine) bool { return places[m] > 0 })
		if m == nil {
			continue
		}
		places[m]--
		g.kept = m
		if m.kept == nil {
			pl.keepFor(m, g)
		}
	}
}

// keepFor lets no more tasks onto a machine.
func (pl *pool) keepFor(m *machine, g *guest) {
	m.kept = g
	pl.kept = append(pl.kept, m)
}

// empty keeps machines of other sizes free of more tasks where that makes room for one of the size that g
// waits for: those that makeRoom will take; else, of those that would do, one without people, who stay for
// days, and with the fewest tasks. As soon as it is idle, it goes.
func (p *planner) empty(pl *pool, g *guest) {
	if g.Size == "" || g.kept != nil {
		return
	}
	one := toVec(g.size.Resources)
	others, _ := p.keptForOthers(pl)
	left := toVec(p.s.Capacity).plus(p.total, -1).plus(others, -1)
	soon := left
	for _, m := range pl.machines {
		if m.destroyed || m.State == dspool.Destroying {
			if soon = soon.plus(m.total, 1); one.fits(soon) {
				return // it leaves room enough
			}
		}
	}
	if way := p.inTheWay(pl, pl.starved); len(way) > 0 {
		for _, m := range way {
			if m.usable && m.kept == nil {
				pl.keepFor(m, g)
			}
		}
		return
	}
	var best *machine
	for _, m := range pl.ready.all {
		switch {
		case m.sessions > 0 || !m.busy || m.kept != nil:
		case !one.fits(left.plus(m.total, 1)):
		case best == nil || m.fill > best.fill:
			best = m
		}
	}
	if best != nil {
		pl.keepFor(best, g)
		g.kept = best
	}
}

// claimant is the first of those who found no place that is waiting for what becomes free on the machine;
// nil if nobody is.
func (pl *pool) claimant(m *machine) *guest {
	g := pl.eager[""]
	if sized := pl.eager[m.size]; g == nil || sized != nil && sized.order < g.order {
		g = sized
	}
	if g == nil {
		g = m.kept // of another size
	}
	return g
}
