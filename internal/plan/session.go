package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

const idleUnset = time.Hour // after which a session in which nothing lives ends, where the pool does not say

// guest is a session that waits, with what the plan gives it.
type guest struct {
	*Session
	order   int // of coming
	seated  bool
	next    *machine     // that is coming and has a place for it
	size    *dspool.Size // of a machine that would be created for it; nil if the pool has none
	blocker blocker      // why none can be
	kept    *machine     // that gets no more tasks until it has a place for it, or makes room
}

// takes says whether the machine is of the size that was asked for.
func (g *guest) takes(m *machine) bool { return g.Size == "" || g.Size == m.size }

// wanted says whether somebody is there or waits for it.
func (s *Session) wanted() bool { return s.Connections > 0 || s.Awaited || s.Kept }

// addSessions sorts those that wait by who came first.
func (p *planner) addSessions() {
	for i := range p.s.Sessions {
		if s := &p.s.Sessions[i]; s.State == dspool.SessionWaiting && s.wanted() {
			p.guests = append(p.guests, guest{Session: s})
		}
	}
	slices.SortFunc(p.guests, func(a, b guest) int { return cmp.Compare(a.ID, b.ID) })
	for i := range p.guests {
		p.guests[i].order = i
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
		deaf[m.Name], going[m.Name] = m.Health != dspool.Healthy, !m.Remove.IsZero() || m.DrainBy != nil
	}
	for i := range p.s.Sessions {
		s := &p.s.Sessions[i]
		switch {
		case s.State == dspool.SessionOpen && s.Kept && going[s.Machine] && s.Connections == 0:
			p.plan.Close = append(p.plan.Close, CloseSession{Session: s.ID, Reason: why(dspool.WhyBeginsAnew, params{})})
		case s.wanted():
		case s.State == dspool.SessionWaiting:
			p.plan.Close = append(p.plan.Close, CloseSession{Session: s.ID, Reason: why(dspool.WhyNobodyWaits, params{})})
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
			p.plan.Close = append(p.plan.Close, CloseSession{Session: s.ID, Reason: why(dspool.WhySessionIdle, params{Within: seconds(limit)})})
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
