package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// report turns what was decided into actions, with the sentences that people read. A
// sentence holds nothing that changes by time alone but the back-off's countdown.
func (p *planner) report() {
	p.places()
	for _, m := range p.made {
		reason := m.reason
		switch j, others := m.creator, m.sessions-1; {
		case j != nil:
			n := j.limit - j.placed
			reason = fmt.Sprintf("%s waits with %s of %v", j.title(), count(n, "task"), j.Request)
		case m.guest != nil && others > 0:
			reason = fmt.Sprintf("%s and %s wait to log in", m.guest.User, count(int64(others), "other"))
		case m.guest != nil:
			reason = m.guest.User + " waits to log in"
		}
		p.plan.Create = append(p.plan.Create, Create{Pool: m.pool.Name, Size: *m.create, Reason: reason})
	}
	texts := map[*class]string{}
	for i := range p.jobs {
		j := &p.jobs[i]
		if j.Pending <= j.placed {
			continue
		}
		p.plan.Waiting = append(p.plan.Waiting, Waiting{Job: j.ID, Reason: p.waiting(j, texts)})
	}
	p.lineUp()
	for _, pl := range p.pools {
		if j := pl.blockedJob(); j != nil {
			pl.note(j.class.blocker, j.class.create)
		}
		if i := slices.IndexFunc(pl.crowd, func(g *guest) bool { return g.blocker != noSize }); i >= 0 {
			pl.note(pl.crowd[i].blocker, pl.crowd[i].size)
		}
		if b := pl.noted; b != free {
			p.plan.Notes = append(p.plan.Notes, Note{Pool: pl.Name, Text: p.blockerText(pl, b, pl.notedSize)})
		}
	}
}

// places lists what fits before what is placed ahead, so that attempts placed ahead have
// the higher identifiers: machines start attempts in that order, and those ahead must not
// take the room of those that fit.
func (p *planner) places() {
	var ahead []Place
	for i := range p.jobs {
		j := &p.jobs[i]
		slices.SortFunc(j.spots, func(a, b spot) int { return cmp.Compare(a.m.index, b.m.index) })
		for _, s := range j.spots {
			if s.n > 0 {
				p.plan.Place = append(p.plan.Place, Place{Job: j.ID, Machine: s.m.Name, Count: int(s.n), Reason: fmt.Sprintf("machine %s has room", s.m.Name)})
			}
			if s.more > 0 {
				ahead = append(ahead, Place{Job: j.ID, Machine: s.m.Name, Count: int(s.more),
					Reason: fmt.Sprintf("placed ahead on machine %s, where tasks of this job take about %s", s.m.Name, brief(j.TaskTime))})
			}
		}
	}
	p.plan.Place = append(p.plan.Place, ahead...)
}

// blockedJob returns the first job for which a machine should be created and cannot.
func (pl *pool) blockedJob() *job {
	for _, j := range pl.jobs {
		if j.left > 0 && j.waits() && j.class.blocker != free {
			return j
		}
	}
	return nil
}

// note remembers why the pool does not grow; a person's need comes before a job's, and that
// before min and spare.
func (pl *pool) note(b blocker, size *dspool.Size) { pl.noted, pl.notedSize = b, size }

// waiting says why the job's pending tasks wait.
func (p *planner) waiting(j *job, texts map[*class]string) string {
	pl := p.by[j.Pool]
	switch {
	case j.Blocked != "":
		return j.Blocked
	case pl == nil:
		return fmt.Sprintf("pool %s does not exist", j.Pool)
	case j.limit == j.placed: // so it is MaxRunning that holds the others back
		return fmt.Sprintf("%d of at most %s run (max running)", j.Placed+j.placed, count(int64(j.MaxRunning), "task"))
	}
	kept := pl.reserved
	switch {
	case kept != nil && kept.reserved != j && j.class.req.fits(kept.free) && (j.Size == "" || j.Size == kept.size):
		if pl.keptText == "" {
			pl.keptText = fmt.Sprintf("machine %s is reserved for %s, which needs more room", kept.Name, kept.reserved.title())
		}
		return pl.keptText
	case pl.barred(j.class) != nil:
		m := pl.barred(j.class)
		return fmt.Sprintf("machine %s is kept for %s, who waits to log in", m.Name, m.kept.User)
	case len(j.next) == 1:
		return "waits for a machine that is starting"
	case len(j.next) > 1:
		return fmt.Sprintf("waits for %d machines that are starting", len(j.next))
	case kept != nil && kept.reserved == j:
		return fmt.Sprintf("waits for room on machine %s, which is reserved for it", kept.Name)
	case j.soon > 0 && j.left == 0:
		return "waits for room on the machines where it runs: its tasks are short"
	}
	text, ok := texts[j.class]
	if !ok {
		text = p.classText(pl, j.class)
		texts[j.class] = text
	}
	return text
}

func (p *planner) classText(pl *pool, c *class) string {
	if c.blocker != noSize {
		text := p.blockerText(pl, c.blocker, c.create)
		if c.blocker == poolMax {
			text += pl.census(c, " and it is busy", " and all are busy")
		}
		return text
	}
	task := fmt.Sprintf("a task of %v", c.req.resources())
	if c.size == "" {
		return fmt.Sprintf("%s fits no size of pool %s", task, pl.Name)
	}
	for _, s := range pl.Sizes {
		if s.Name == c.size {
			return fmt.Sprintf("%s does not fit size %s (%v)", task, s.Name, s.Resources)
		}
	}
	return fmt.Sprintf("pool %s has no size %s", pl.Name, c.size)
}

// blockerText says why no machine can be created.
func (p *planner) blockerText(pl *pool, b blocker, size *dspool.Size) string {
	switch b {
	case poolBlocked:
		return pl.Blocked
	case backoff:
		left := pl.BackoffUntil.Sub(p.now)
		return fmt.Sprintf("creating machines failed: %s; next try in %s", pl.LastFailure, seconds(left+time.Second-1))
	case probing:
		return fmt.Sprintf("creating machines failed: %s; one machine is tried first", pl.LastFailure)
	case poolMax:
		return fmt.Sprintf("pool %s is at its max of %s", pl.Name, count(int64(pl.Max), "machine"))
	case providerMax:
		text := fmt.Sprintf("the provider can have at most %s", count(int64(p.s.MaxMachines), "machine"))
		if len(p.all)+len(p.made) < p.s.MaxMachines {
			text += "; the rest is kept for the min of other pools"
		}
		return text
	case hostsTooSmall:
		return fmt.Sprintf("a machine of size %s (%v) is larger than the hosts (%v)", size.Name, size.Resources, p.s.Capacity)
	case hostsFull:
		return p.fullText(size)
	case hostsPromised:
		return fmt.Sprintf("the hosts have no room for another machine of size %s: the rest is kept for %s, who waits for one of size %s", size.Name, pl.promised.User, pl.promised.size.Name)
	}
	return "waits for room"
}

// fullText names the resource that the hosts lack.
func (p *planner) fullText(size *dspool.Size) string {
	text := fmt.Sprintf("the hosts have no room for another machine of size %s: ", size.Name)
	one, whole := toVec(size.Resources), toVec(p.s.Capacity)
	used, all := p.total.resources(), p.s.Capacity
	switch left := whole.plus(p.total, -1); {
	case one.cpu > left.cpu:
		return text + fmt.Sprintf("%s of %s cpus are taken", dspool.FormatCPUs(used.CPUs), dspool.FormatCPUs(all.CPUs))
	case one.mem > left.mem:
		return text + fmt.Sprintf("%s of %s memory are taken", dspool.FormatBytes(used.Memory), dspool.FormatBytes(all.Memory))
	case one.gpu > left.gpu:
		return text + fmt.Sprintf("%d of %d gpus are taken", used.GPUs, all.GPUs)
	}
	return text + "the rest is kept for the min of other pools"
}

// barred returns a machine that is kept for a session and has room for the class, or nil.
func (pl *pool) barred(c *class) *machine {
	if !c.looked {
		c.looked = true
		i := slices.IndexFunc(pl.kept, func(m *machine) bool { return c.req.fits(m.free) && (c.size == "" || c.size == m.size) })
		if i >= 0 {
			c.barred = pl.kept[i]
		}
	}
	return c.barred
}

// lineUp says of every session that still waits why, and at which place in its pool.
func (p *planner) lineUp() {
	positions := map[string]int{}
	for i := range p.guests {
		g := &p.guests[i]
		if g.seated {
			continue
		}
		positions[g.Pool]++
		p.plan.Queue = append(p.plan.Queue, Queued{Session: g.ID, Position: positions[g.Pool], Reason: p.queued(g)})
	}
}

func (p *planner) queued(g *guest) string {
	pl := p.by[g.Pool]
	switch {
	case pl == nil:
		return fmt.Sprintf("pool %s does not exist", g.Pool)
	case g.next != nil && g.next.Machine == nil:
		return "a machine is being created"
	case g.next != nil:
		return g.next.Name + " is starting"
	case g.blocker == noSize:
		return strings.TrimSuffix(fmt.Sprintf("pool %s has no size %s", pl.Name, g.Size), " ")
	}
	text, ok := pl.crowdTexts[g.Size]
	if !ok {
		if pl.crowdTexts == nil {
			pl.crowdTexts = map[string]crowdText{}
		}
		text = p.crowdText(pl, g)
		pl.crowdTexts[g.Size] = text
	}
	if g.kept != nil {
		return fmt.Sprintf("%s; waits for tasks on machine %s to end", text.short, g.kept.Name)
	}
	return text.full
}

func (p *planner) crowdText(pl *pool, g *guest) crowdText {
	short := p.blockerText(pl, g.blocker, g.size)
	full := short
	if g.blocker == poolMax {
		full += pl.census(&class{classKey: classKey{size: g.Size}}, placesTaken, placesTaken)
	}
	if g.Size != "" && (g.blocker == poolMax || g.blocker == providerMax) { // the others name it
		full = fmt.Sprintf("waits for a machine of size %s; %s", g.Size, full)
	}
	return crowdText{short, full}
}

const placesTaken = " and every place is taken"

func (j *job) title() string { return fmt.Sprintf("job %d of %s", j.ID, j.User) }

func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.FormatInt(n, 10) + " " + noun + "s"
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func seconds(d time.Duration) string { return dspool.Duration(d.Truncate(time.Second)).String() }

// brief prints a run time without needless digits.
func brief(d time.Duration) string {
	if d >= time.Millisecond {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Microsecond).String()
}
