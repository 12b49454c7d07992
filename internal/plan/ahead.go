package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

// Tasks placed ahead wait on their machine and start the moment there is room, without
// the way to the server and back. It pays for short tasks only, and only while nobody
// else waits for the room.
const (
	aheadTaskTime = time.Second            // a job whose tasks take as long or longer gets none
	aheadWork     = 250 * time.Millisecond // of work is placed ahead at most
	aheadMost     = 64                     // attempts ahead on one machine at most
	aheadLimit    = 2 * time.Second        // one not started by then is asked back
)

// findWaiters notes the first job that waits for room, and the first of another user.
func (pl *pool) findWaiters() {
	for _, j := range pl.jobs {
		switch {
		case !j.waits():
		case pl.waiters[0] == nil:
			pl.waiters[0] = j
		case pl.waiters[0].User != j.User:
			pl.waiters[1] = j
			return
		}
	}
}

// rival returns a job of somebody else that waits for room in the pool, or nil.
func (pl *pool) rival(user string) *job {
	if w := pl.waiters[0]; w == nil || w.User != user {
		return w
	}
	return pl.waiters[1]
}

// recall asks attempts back that were placed ahead and should not wait there.
func (p *planner) recall() {
	for _, q := range p.queue {
		m := q.m
		if q.Recall || m.State == dspool.Destroying || m.destroyed {
			continue
		}
		var reason dspool.Reason
		owner := p.ids[q.Job]
		late := q.Since.Add(aheadLimit)
		switch {
		case !m.Remove.IsZero() || m.DrainBy != nil || m.pool == nil:
			reason = why(dspool.WhyBeingDrained, params{Machine: m.Name})
		case m.Cordoned:
			reason = why(dspool.WhyCordoned, params{Machine: m.Name})
		case m.Health != dspool.Healthy:
			reason = why(dspool.WhyUnhealthy, params{Machine: m.Name}).With(m.HealthReason)
		case m.reserved != nil && m.reserved != owner:
			reason = why(dspool.WhyReservedFor, params{Machine: m.Name, Job: m.reserved.ID, User: m.reserved.User})
		case m.pool.claimant(m) != nil:
			reason = why(dspool.WhyUserWaits, params{User: m.pool.claimant(m).User})
		case owner != nil && m.pool.rival(owner.User) != nil:
			rival := m.pool.rival(owner.User)
			reason = why(dspool.WhyJobWaitsForRoom, params{Job: rival.ID, User: rival.User})
		case !p.now.Before(late):
			reason = why(dspool.WhyNotStartedSoon, params{Machine: m.Name, Within: seconds(aheadLimit)})
		default:
			p.wake(late)
			continue
		}
		m.recalled = true
		p.plan.Recall = append(p.plan.Recall, Recall{Attempt: q.ID, Reason: reason})
	}
}

// expect puts up to n tasks of a short job aside, to be placed ahead unless somebody
// else waits for room too, and returns how many. No machine is created for them: by the time it were
// ready they have long run.
func (j *job) expect(n int64) int64 {
	if !j.known {
		j.known = true
		for i := range j.spots {
			j.ahead += max(0, j.budget(&j.spots[i]))
		}
	}
	n = min(n, j.ahead)
	j.ahead -= n
	j.soon += n
	return n
}

// placeAhead places more of short tasks than fit, evenly over the machines where
// their job runs.
func (p *planner) placeAhead(pl *pool) {
	for _, j := range pl.jobs {
		left := j.soon
		if left == 0 || pl.rival(j.User) != nil {
			continue
		}
		type budget struct {
			spot int
			n    int64
		}
		var list []budget
		for i := range j.spots {
			if n := j.budget(&j.spots[i]); n > 0 && pl.claimant(j.spots[i].m) == nil {
				list = append(list, budget{i, n})
			}
		}
		slices.SortStableFunc(list, func(a, b budget) int { return cmp.Compare(a.n, b.n) })
		for i, b := range list {
			rest := int64(len(list) - i)
			n := min(b.n, (left+rest-1)/rest)
			s := &j.spots[b.spot]
			s.more += n
			s.m.ahead += int(n)
			j.placed += n
			left -= n
		}
	}
}

// budget returns how many more tasks of j may wait on a machine. Only claims that
// began lately count for its parallelism: where tasks turn out to take longer than
// they did so far, none are placed ahead.
func (j *job) budget(s *spot) int64 {
	m := s.m
	if !m.usable || m.coming || m.recalled || m.pool.Name != j.Pool || (m.reserved != nil && m.reserved != j) || int64(m.ahead) > s.queued {
		return 0
	}
	if !j.class.req.fits(m.total) || (j.Size != "" && j.Size != m.size) {
		return 0
	}
	work := (s.young + s.n) * int64(aheadWork)
	n := (work + int64(j.TaskTime) - 1) / int64(j.TaskTime)
	return min(n-s.queued, aheadMost-int64(m.ahead))
}
