package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

// holdBack keeps the tasks of a held pool where they are but for one, once it is time to try: of the job that had
// a turn longest ago, so that no job whose tasks alone cannot start holds up the others.
func (p *planner) holdBack(pl *pool) {
	jobs := pl.jobs
	pl.jobs = nil
	for _, j := range jobs {
		j.left, j.limit = 0, 0
	}
	if pl.HeldUntil.After(p.now) {
		p.wake(pl.HeldUntil)
		return
	}
	for _, m := range pl.machines {
		if slices.ContainsFunc(m.Attempts, func(a Attempt) bool { return a.ID > pl.HeldAfter && !a.Running && !a.Recall }) {
			return // it is being tried
		}
	}
	if len(jobs) == 0 {
		return
	}
	j := slices.MinFunc(jobs, func(a, b *job) int { return cmp.Compare(a.Served, b.Served) })
	j.left, j.limit = 1, 1
	pl.jobs = []*job{j}
}

// heldBack says why no task of a held pool is placed.
func (p *planner) heldBack(pl *pool) dspool.Reason {
	if left := pl.HeldUntil.Sub(p.now); left > 0 {
		return why(dspool.WhyHeld, params{Time: seconds(left + time.Second - 1)}).With(pl.Held)
	}
	return why(dspool.WhyHeldTrying, params{}).With(pl.Held)
}

// heldWaits says whether tasks wait in a held pool.
func (p *planner) heldWaits(pl *pool) bool {
	return !pl.Held.IsZero() && slices.ContainsFunc(p.plan.Waiting, func(w Waiting) bool {
		j := p.ids[w.Job]
		return p.by[j.Pool] == pl && j.Blocked.IsZero()
	})
}
