package plan

import (
	"slices"
	"time"

	"github.com/dspool/dspool"
)

// shrink destroys machines without attempts and sessions of pools that are over their max,
// before anything is placed on them: first those that take no tasks anyway, then those
// not ready yet, then the longest idle. The others go on until they are idle.
func (p *planner) shrink() {
	for _, pl := range p.pools {
		over := 0
		var sick, coming, ready []*machine
		for _, m := range pl.machines {
			if m.destroyed || m.State == dspool.Destroying {
				continue
			}
			over++
			switch {
			case m.busy || m.Cordoned || m.DrainBy != nil || !m.Remove.IsZero():
			case m.coming:
				coming = append(coming, m)
			case m.State != dspool.Ready:
			case m.usable:
				ready = append(ready, m)
			default:
				sick = append(sick, m)
			}
		}
		if over -= pl.Max; over <= 0 {
			continue
		}
		slices.Reverse(coming) // the newest is the furthest from ready
		slices.SortFunc(sick, longestIdle)
		slices.SortFunc(ready, longestIdle)
		for _, m := range slices.Concat(sick, coming, ready) {
			if over == 0 {
				break
			}
			over--
			p.destroy(m, why(dspool.WhyOverMax, params{Pool: pl.Name, Limit: int64(pl.Max)}))
		}
	}
}

// idleMachines returns ready machines without attempts and sessions that this plan gives nothing,
// longest idle first.
func (pl *pool) idleMachines() []*machine {
	var list []*machine
	for _, m := range pl.machines {
		if m.State == dspool.Ready && !m.busy && !m.destroyed && !m.Cordoned && m.DrainBy == nil && m.Remove.IsZero() {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, longestIdle)
	return list
}

// idle destroys machines that have had no claim for longer than the pool's limit,
// beyond min and spare.
func (p *planner) idle(pl *pool) {
	limit := time.Duration(pl.Policy.IdleAfter)
	beyond := min(pl.size()-pl.Min, pl.unclaimed()-pl.Spare)
	for _, m := range pl.idleMachines() {
		if m.usable { // an unhealthy one counts for neither min nor spare
			if beyond <= 0 {
				continue
			}
			beyond--
		}
		pl.surplus = append(pl.surplus, m)
		if at := m.IdleSince.Add(limit); p.now.Before(at) {
			p.wake(at)
			continue
		}
		reason := why(dspool.WhyIdle, params{Time: seconds(p.now.Sub(m.IdleSince)), Within: seconds(limit)})
		if !m.usable {
			reason.Code = dspool.WhyIdleUnhealthy
			reason = reason.With(m.HealthReason)
		}
		p.destroy(m, reason)
	}
}
