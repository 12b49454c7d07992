package plan

import "github.com/dspool/dspool"

// drain destroys machines that somebody wants gone, once nothing is left on them or
// their deadline has passed, those of pools that are no more, and those on which somebody was
// root: what root left there must not meet the next person.
func (p *planner) drain() {
	for _, m := range p.all {
		if m.State == dspool.Destroying {
			continue
		}
		reason := m.Remove
		switch {
		case !reason.IsZero():
		case m.DrainBy != nil:
			reason.Code = dspool.WhyDrained
		case m.pool == nil:
			reason = why(dspool.WhyPoolGone, params{Pool: m.Pool})
		case m.pool.Policy.Sudo && m.Used:
			reason.Code = dspool.WhyWasRoot
		default:
			continue
		}
		switch {
		case !m.busy:
			p.destroy(m, why(dspool.WhyNothingLeft, params{}).With(reason))
		case m.DrainBy == nil:
		case m.DrainBy.After(p.now):
			p.wake(*m.DrainBy)
		default:
			p.destroy(m, why(dspool.WhyDeadline, params{}).With(append([]dspool.Reason{reason}, m.load()...)...))
		}
	}
}

// load says how many tasks and sessions are on the machine, if any.
func (m *machine) load() []dspool.Reason {
	return counted(counts{dspool.WhyLoadTasks, len(m.Attempts)}, counts{dspool.WhyLoadSessions, m.sessions})
}
