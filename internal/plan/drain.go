package plan

import (
	"fmt"
	"strings"

	"github.com/dspool/dspool"
)

// drain destroys machines that somebody wants gone, once nothing is left on them or
// their deadline has passed, those of pools that are no more, and those on which somebody was
// root: what root left there must not meet the next person.
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
		case m.pool.Policy.Sudo && m.Used:
			why = "somebody was root here, and nobody else gets it"
		default:
			continue
		}
		switch {
		case !m.busy:
			p.destroy(m, why+"; nothing is left on it")
		case m.DrainBy == nil:
		case m.DrainBy.After(p.now):
			p.wake(*m.DrainBy)
		default:
			p.destroy(m, fmt.Sprintf("%s; its deadline has passed with %s on it", why, m.load()))
		}
	}
}

// load says how many tasks and sessions are on the machine, if any.
func (m *machine) load() string {
	var parts []string
	if n := len(m.Attempts); n > 0 {
		parts = append(parts, count(int64(n), "task"))
	}
	if m.sessions > 0 {
		parts = append(parts, count(int64(m.sessions), "session"))
	}
	return strings.Join(parts, " and ")
}
