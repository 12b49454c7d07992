package usage

import (
	"cmp"
	"slices"
	"time"
)

const gib = 1 << 30

// edge is a moment at which a claim begins or ends.
type edge struct {
	at    time.Duration // since the machine's time began
	claim int32
	end   bool
}

// sum is what was used, in seconds and money.
type sum struct{ machine, cpu, gib, gpu, cost float64 }

func (s *sum) plus(o sum) {
	s.machine += o.machine
	s.cpu += o.cpu
	s.gib += o.gib
	s.gpu += o.gpu
	s.cost += o.cost
}

// sums are what claims, and nobody, used.
type sums map[Key]*sum

func (s sums) at(k Key) *sum {
	r := s[k]
	if r == nil {
		r = &sum{}
		s[k] = r
	}
	return r
}

// add bills one machine's time. A line sweeps over it once: while the shares of all
// claims add up to s, a second of a claim counts 1/max(1, s). The sum of that since the beginning
// is kept at every edge, so a claim costs its share times the difference between its two edges.
func (b sums) add(m Machine, claims []Claim) {
	length := m.To.Sub(m.From)
	if length <= 0 {
		return
	}
	edges := make([]edge, 0, 2*len(claims))
	for i, c := range claims {
		from, to := max(0, c.From.Sub(m.From)), min(length, c.To.Sub(m.From))
		if from < to {
			edges = append(edges, edge{from, int32(i), false}, edge{to, int32(i), true})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.claim, b.claim)) })
	var (
		began  = make([]float64, len(claims)) // scaled seconds at which each began
		scaled float64                        // scaled seconds until now
		idle   float64                        // machine seconds that nobody claimed
		shares float64                        // of the shares of those that last
		active int
		now    time.Duration
		used   sum
	)
	pass := func(to time.Duration) {
		if to == now {
			return
		}
		s := (to - now).Seconds()
		scaled += s / max(1, shares)
		idle += s * max(0, 1-shares)
		now = to
	}
	for _, e := range edges {
		pass(e.at)
		c := &claims[e.claim]
		share := max(0, c.Request.Share(m.Resources))
		if !e.end {
			began[e.claim] = scaled
			shares += share
			active++
			continue
		}
		shares -= share
		if active--; active == 0 {
			shares = 0 // what rounding left over
		}
		part := charge(m, c, share, scaled-began[e.claim])
		b.at(keyOf(c, &m)).plus(part)
		used.plus(part)
	}
	pass(length)
	seconds := length.Seconds()
	b.at(Key{Kind: KindIdle, Pool: m.Pool, Size: m.Size}).plus(sum{
		machine: idle, cost: idle / 3600 * m.Price,
		cpu: max(0, m.Resources.CPUs*seconds-used.cpu),
		gib: max(0, float64(m.Resources.Memory)/gib*seconds-used.gib),
		gpu: max(0, float64(m.Resources.GPUs)*seconds-used.gpu),
	})
}

// charge returns what a claim costs for so many scaled seconds. It cannot have used more
// than the machine has.
func charge(m Machine, c *Claim, share, seconds float64) sum {
	return sum{
		machine: share * seconds,
		cpu:     min(c.Request.CPUs, m.Resources.CPUs) * seconds,
		gib:     float64(min(c.Request.Memory, m.Resources.Memory)) / gib * seconds,
		gpu:     float64(min(c.Request.GPUs, m.Resources.GPUs)) * seconds,
		cost:    share * seconds / 3600 * m.Price,
	}
}
