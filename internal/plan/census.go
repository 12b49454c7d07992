package plan

import (
	"slices"
	"strconv"
	"strings"

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
		case m.Remove != "" || m.DrainBy != nil:
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

// census says what the machines of a full pool do, as a task of the class sees them: one or all
// where they have no room for it.
func (pl *pool) census(c *class, one, all string) string {
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
	switch {
	case busy == pl.exist && busy == 1:
		return one
	case busy == pl.exist:
		return all
	}
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+what)
		}
	}
	add(busy, "busy")
	if c.req == (vec{}) { // a person
		add(unfit, "of another size")
	} else {
		add(unfit, "of a size that does not fit")
	}
	add(t.starting, "starting")
	add(t.cordoned, "cordoned")
	add(t.draining, "draining")
	add(t.unhealthy, "unhealthy")
	add(t.stopped, "stopped")
	add(t.going, "being removed")
	return ": " + strings.Join(parts, ", ")
}
