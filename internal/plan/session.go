package plan

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

const (
	placesUnset = 4         // sessions on one machine where the pool does not say
	idleUnset   = time.Hour // after which a session in which nothing lives ends, likewise
	mib         = 1 << 20
)

// guest is a session that waits, with what the plan gives it.
type guest struct {
	*Session
	seated bool
	next   *machine // that is coming and has a place for it
	kept   *machine // that gets no more tasks until it has a place for it
}

// wanted says whether somebody is there or waits for it.
func (s *Session) wanted() bool { return s.Connections > 0 || s.Awaited || s.Kept }

// addSessions sorts those that wait by who came first.
func (p *planner) addSessions() {
	for i := range p.s.Sessions {
		if s := &p.s.Sessions[i]; s.State == dspool.SessionWaiting && s.wanted() {
			p.guests = append(p.guests, guest{Session: s})
		}
	}
	slices.SortFunc(p.guests, func(a, b guest) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	for i := range p.guests {
		if pl := p.by[p.guests[i].Pool]; pl != nil {
			pl.guests = append(pl.guests, &p.guests[i])
		}
	}
}

// sit gives a session of the snapshot what it holds of its machine.
func (m *machine) sit(s *Session) {
	req := toVec(s.Request)
	m.free = m.free.plus(req, -1)
	m.people = m.people.plus(req, 1)
	m.sessions++
	if m.pool != nil {
		u := m.pool.user(s.User)
		u.held = u.held.plus(req, 1)
	}
}

// surely is the least time without a sign of life after which a session may end, however short the pool's:
// the agent looks every 5 s and reports at once, so that what was left running in the last moment of
// the last connection has been seen by then.
const surely = 15 * time.Second

// closeSessions ends those that nobody waits for, and those where nobody was connected and
// nothing lived for the pool's time. What runs for ever begins anew elsewhere when somebody wants its
// machine gone. What is alive is never closed, nor what somebody keeps, nor
// anything on a machine whose agent cannot say what lives there.
func (p *planner) closeSessions() {
	deaf, going := map[string]bool{}, map[string]bool{}
	for _, m := range p.s.Machines {
		deaf[m.Name], going[m.Name] = m.Health != dspool.Healthy, m.Remove != "" || m.DrainBy != nil
	}
	for i := range p.s.Sessions {
		s := &p.s.Sessions[i]
		switch {
		case s.State == dspool.SessionOpen && s.Kept && going[s.Machine] && s.Connections == 0:
			p.plan.Close = append(p.plan.Close, CloseSession{Session: s.ID, Reason: "its machine is to go; it begins anew on the next"})
		case s.wanted():
		case s.State == dspool.SessionWaiting:
			p.plan.Close = append(p.plan.Close, CloseSession{Session: s.ID, Reason: "nobody waits for it any more"})
		case s.State == dspool.SessionOpen && !s.Active && !deaf[s.Machine]:
			limit := idleUnset
			if pl := p.by[s.Pool]; pl != nil && pl.Policy.SessionIdle > 0 {
				limit = time.Duration(pl.Policy.SessionIdle)
			}
			limit = max(limit, surely)
			at := later(s.LastActive, s.Since).Add(limit)
			if at = later(at, s.KeepUntil); p.now.Before(at) {
				p.wake(at)
				continue
			}
			p.plan.Close = append(p.plan.Close, CloseSession{Session: s.ID, Reason: "nobody was connected and nothing of it lived for " + seconds(limit)})
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// seat gives those who wait to log in a place, in the order in which they came. All
// sessions come before all tasks, for room and for new machines: people wait, jobs can.
// Nothing that runs makes way for them.
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
	pl.crowd = p.seatOnReady(pl, pl.guests)
	pl.crowd = p.awaitComing(pl, pl.crowd)
	pl.crowd = p.createForGuests(pl, pl.crowd)
	if len(pl.crowd) == 0 {
		return
	}
	if pl.crowdBlocker.byOthers() {
		pl.starved = &need{who: pl.crowd[0].User, size: &pl.Sizes[0], blocker: pl.crowdBlocker}
	}
	pl.keepForCrowd()
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
func (p *planner) seatOnReady(pl *pool, wait []*guest) []*guest {
	h := make(seats, 0, len(pl.ready.all))
	for _, m := range pl.ready.all {
		if pl.hasPlace(m) {
			h = append(h, m)
		}
	}
	heap.Init(&h)
	for len(wait) > 0 && len(h) > 0 {
		m, g := h[0], wait[0]
		wait = wait[1:]
		g.seated = true
		part := pl.place(m)
		pl.ready.seat(m, part, 1)
		p.plan.Seat = append(p.plan.Seat, Seat{Session: g.ID, Machine: m.Name, Request: part.resources(),
			Reason: fmt.Sprintf("machine %s has room: place %d of %d", m.Name, m.sessions, pl.places)})
		if pl.hasPlace(m) {
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return wait
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

// seat takes the room of n more sessions.
func (y *yard) seat(m *machine, part vec, n int) {
	y.give(m, part, int64(n))
	m.people = m.people.plus(part, int64(n))
	m.sessions += n
}

// awaitComing gives those who wait the places of machines that are starting, the oldest
// first, and returns those for whom there is none.
func (p *planner) awaitComing(pl *pool, wait []*guest) []*guest {
	for _, m := range pl.coming.all {
		for len(wait) > 0 && pl.hasPlace(m) {
			wait[0].next = m
			wait = wait[1:]
			pl.coming.seat(m, pl.place(m), 1)
		}
	}
	return wait
}

// createForGuests creates machines of the pool's first size, as far as it may, and returns
// those for whom they have no place.
func (p *planner) createForGuests(pl *pool, wait []*guest) []*guest {
	for len(wait) > 0 {
		if len(pl.Sizes) == 0 {
			pl.crowdBlocker = noSize
			return wait
		}
		room, b := p.room(pl, &pl.Sizes[0])
		if room == 0 {
			pl.crowdBlocker = b
			return wait
		}
		for ; room > 0 && len(wait) > 0; room-- {
			m := p.create(pl, &pl.Sizes[0])
			pl.coming.add(m)
			n := min(pl.places, len(wait))
			pl.coming.seat(m, pl.place(m), n)
			m.reason = wait[0].User + " waits to log in"
			if n > 1 {
				m.reason = fmt.Sprintf("%s and %s wait to log in", wait[0].User, count(int64(n-1), "other"))
			}
			for _, g := range wait[:n] {
				g.next = m
			}
			wait = wait[n:]
		}
	}
	return nil
}

// keepForCrowd keeps machines in use by tasks free of more of them, as many as those who
// found no place need: else smaller tasks would for ever take what becomes free. First
// those that lack the least.
func (pl *pool) keepForCrowd() {
	type candidate struct {
		m      *machine
		lack   float64
		places int
	}
	var list []candidate
	for _, m := range pl.ready.all {
		part := pl.place(m)
		n := min(int64(pl.places-m.sessions), part.count(m.total.plus(m.people, -1)))
		if n > 0 { // once its tasks are gone
			list = append(list, candidate{m, part.plus(m.free, -1).share(m.total), int(n)})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.lack, b.lack), cmp.Compare(a.m.index, b.m.index))
	})
	wait := pl.crowd
	for _, c := range list {
		if len(wait) == 0 {
			return
		}
		c.m.kept = wait[0]
		pl.kept = append(pl.kept, c.m)
		n := min(c.places, len(wait))
		for _, g := range wait[:n] {
			g.kept = c.m
		}
		wait = wait[n:]
	}
}
