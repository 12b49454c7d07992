package usage

import (
	"cmp"
	"slices"
	"time"

	"github.com/dspool/dspool"
)

const gib = 1 << 30

// edge is a moment at which a claim begins or ends.
type edge struct {
	at    time.Duration // since the machine's time began
	claim int32
	end   bool
}

// add bills one machine's time. A line sweeps over it once: while the shares of all
// claims add up to s, a second of a claim counts 1/max(1, s). The sum of that since the beginning
// is kept at every edge, so a claim costs its share times the difference between its two edges.
func (b *bill) add(m Machine, claims []Claim) {
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
		sum    float64                        // of the shares of those that last
		active int
		now    time.Duration
		used   dspool.UsageRow
	)
	pass := func(to time.Duration) {
		if to == now {
			return
		}
		s := (to - now).Seconds()
		scaled += s / max(1, sum)
		idle += s * max(0, 1-sum)
		now = to
	}
	for _, e := range edges {
		pass(e.at)
		c := &claims[e.claim]
		share := max(0, c.Request.Share(m.Resources))
		if !e.end {
			began[e.claim] = scaled
			sum += share
			active++
			continue
		}
		sum -= share
		if active--; active == 0 {
			sum = 0 // what rounding left over
		}
		part := charge(m, c, share, scaled-began[e.claim])
		plus(b.row(c, m.Pool), part)
		plus(&used, part)
	}
	pass(length)
	seconds := length.Seconds()
	r := b.idleRow(m.Pool)
	r.MachineSeconds += idle
	r.Cost += idle / 3600 * m.Price
	r.CPUSeconds += max(0, m.Resources.CPUs*seconds-used.CPUSeconds)
	r.GiBSeconds += max(0, float64(m.Resources.Memory)/gib*seconds-used.GiBSeconds)
	r.GPUSeconds += max(0, float64(m.Resources.GPUs)*seconds-used.GPUSeconds)
}

// charge returns what a claim costs for so many scaled seconds. It cannot have used more
// than the machine has.
func charge(m Machine, c *Claim, share, seconds float64) dspool.UsageRow {
	return dspool.UsageRow{
		MachineSeconds: share * seconds,
		CPUSeconds:     min(c.Request.CPUs, m.Resources.CPUs) * seconds,
		GiBSeconds:     float64(min(c.Request.Memory, m.Resources.Memory)) / gib * seconds,
		GPUSeconds:     float64(min(c.Request.GPUs, m.Resources.GPUs)) * seconds,
		Cost:           share * seconds / 3600 * m.Price,
	}
}

func plus(r *dspool.UsageRow, o dspool.UsageRow) {
	r.MachineSeconds += o.MachineSeconds
	r.CPUSeconds += o.CPUSeconds
	r.GiBSeconds += o.GiBSeconds
	r.GPUSeconds += o.GPUSeconds
	r.Cost += o.Cost
}
