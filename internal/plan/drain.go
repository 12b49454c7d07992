package plan

import (
	"fmt"

	"github.com/dspool/dspool"
)

// drain destroys machines that somebody wants gone, once nothing is left on them or
// their deadline has passed, and those of pools that are no more.
func (p *planner) drain() {
	for _, m := range p.all {
		if m.State == dspool.Destroying {
			continue
		}
		why := m.Remove
		switch {
		case why != "":
		case m.DrainBy != nil:
			why = "drained"
		case m.pool == nil:
			why = fmt.Sprintf("pool %s is no more", m.Pool)
		default:
			continue
		}
		switch {
		case len(m.Attempts) == 0:
			p.destroy(m, why+"; no task is left on it")
		case m.DrainBy == nil:
		case m.DrainBy.After(p.now):
			p.wake(*m.DrainBy)
		default:
			p.destroy(m, fmt.Sprintf("%s; its deadline has passed with %s on it", why, count(int64(len(m.Attempts)), "task")))
		}
	}
}
