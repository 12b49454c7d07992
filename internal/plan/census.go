package plan

import (
	"slices"

	"github.com/dspool/dspool"
)

// tally counts the machines of a pool by what they do.
type tally struct {
	shapes                                                  []shape // of those that take tasks
	starting, cordoned, draining, unhealthy, stopped, going int
}

// shape is a size with the number of machines that have it.
type shape struct {
	size  string
	total vec
	n     int
}

func (pl *pool) count() *tally {
	var t tally
	for _, m := range pl.machines {
		switch {
		case m.destroyed || m.State == dspool.Destroying:
			t.going++
		case !m.Remove.IsZero() || m.DrainBy != nil:
			t.draining++
		case m.Cordoned:
			t.cordoned++
		case m.coming:
			t.starting++
		case m.State != dspool.Ready:
			t.stopped++
		case !m.usable:
			t.unhealthy++
		default:
			i := slices.IndexFunc(t.shapes, func(s shape) bool { return s.size == m.size && s.total == m.total })
			if i < 0 {
				i = len(t.shapes)
				t.shapes = append(t.shapes, shape{size: m.size, total: m.total})
			}
			t.shapes[i].n++
		}
	}
	for _, m := range pl.coming.all {
		if m.Machine == nil {
			t.starting++
		}
	}
	return &t
}

// census says of a pool at its max what its machines do, as a task or a person of the class sees them: full
// where all of them could take it and have no room.
func (pl *pool) census(c *class, full dspool.ReasonCode) dspool.Reason {
	if pl.tally == nil {
		pl.tally = pl.count()
	}
	t := pl.tally
	busy, unfit := 0, 0
	for _, s := range t.shapes {
		if c.req.fits(s.total) && (c.size == "" || c.size == s.size) {
			busy += s.n
		} else {
			unfit += s.n
		}
	}
	if busy == pl.exist {
		return why(full, params{Pool: pl.Name, Limit: int64(pl.Max), Count: int64(busy)})
	}
	other := dspool.WhyCountUnfit
	if c.req == (vec{}) { // a person
		other = dspool.WhyCountOther
	}
	return pl.atMax().With(counted(
		counts{dspool.WhyCountBusy, busy}, counts{other, unfit}, counts{dspool.WhyCountStarting, t.starting},
		counts{dspool.WhyCountCordoned, t.cordoned}, counts{dspool.WhyCountDraining, t.draining},
		counts{dspool.WhyCountUnhealthy, t.unhealthy}, counts{dspool.WhyCountStopped, t.stopped},
		counts{dspool.WhyCountGoing, t.going},
	)...)
}

func (pl *pool) atMax() dspool.Reason {
	return why(dspool.WhyPoolMax, params{Pool: pl.Name, Limit: int64(pl.Max)})
}

// counts is how many of a kind there are.
type counts struct {
	code dspool.ReasonCode
	n    int
}

// counted returns a reason for every kind of which there are any.
func counted(list ...counts) (parts []dspool.Reason) {
	for _, c := range list {
		if c.n > 0 {
			parts = append(parts, why(c.code, params{Count: int64(c.n)}))
		}
	}
	return parts
}
