package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspool/dspool"
)

// A held pool places nothing before its time, then one task of whose turn it is, and no second one meanwhile.
func TestHeldPoolTriesOneTaskAtATime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	size := dspool.Size{Name: "small", Resources: dspool.Resources{CPUs: 4, Memory: 8 << 30}}
	one := dspool.Resources{CPUs: 1, Memory: 1 << 30}
	snapshot := func() Snapshot {
		return Snapshot{
			Capacity: dspool.Resources{CPUs: 64, Memory: 64 << 30},
			Pools: []Pool{{Pool: dspool.Pool{Name: "batch", Max: 4}, Sizes: []dspool.Size{size},
				Held: dspool.Why(dspool.WhyShareFull, dspool.ReasonParams{Name: "team"}), HeldUntil: now.Add(5 * time.Second), HeldAfter: 10}},
			Machines: []Machine{{Name: "batch-1", Pool: "batch", Size: "small", Resources: size.Resources, State: dspool.Ready, Health: dspool.Healthy}},
			Jobs: []Job{
				{ID: 1, User: "ada", Pool: "batch", Request: one, Pending: 100, Created: now},
				{ID: 2, User: "bob", Pool: "batch", Request: one, Pending: 100, Created: now},
			},
		}
	}
	placed := func(p Plan) (n int, jobs string) {
		for _, x := range p.Place {
			if !x.Try {
				t.Errorf("%+v is no try", x)
			}
			n += x.Count
			jobs += fmt.Sprint(x.Job)
		}
		return n, jobs
	}
	p := Compute(snapshot(), now)
	if n, _ := placed(p); n != 0 || len(p.Create) != 0 || !p.WakeAt.Equal(now.Add(5*time.Second)) {
		t.Errorf("while it is held: %d placed, %d machines, wakes at %s", n, len(p.Create), p.WakeAt)
	}
	for _, w := range p.Waiting {
		if !w.Reason.Is(dspool.WhyHeld) || w.Reason.Because[0].Name != "team" {
			t.Errorf("job %d waits because %+v", w.Job, w.Reason)
		}
	}
	if len(p.Notes) != 1 || !p.Notes[0].Reason.Is(dspool.WhyHeld) {
		t.Errorf("notes: %+v", p.Notes)
	}
	later := now.Add(5 * time.Second)
	p = Compute(snapshot(), later)
	if n, jobs := placed(p); n != 1 || jobs != "1" || len(p.Create) != 0 {
		t.Errorf("at its time: %d placed, of jobs %s, and %d machines", n, jobs, len(p.Create))
	}
	s := snapshot()
	s.Machines[0].Attempts = []Attempt{{ID: 11, Job: 1, Request: one}}
	if n, _ := placed(Compute(s, later)); n != 0 {
		t.Errorf("while one is tried, %d are placed", n)
	}
	s.Machines[0].Attempts[0].ID = 10 // from before
	if n, _ := placed(Compute(s, later)); n != 1 {
		t.Errorf("beside one from before, %d are placed", n)
	}
	s = snapshot()
	s.Machines = nil
	if p := Compute(s, later); len(p.Create) != 1 {
		t.Errorf("without a machine, %d are made", len(p.Create))
	}
	s = snapshot()
	s.Pools[0].Held = dspool.Reason{}
	s.Machines[0].FaultUntil = later.Add(time.Second)
	if n, _ := placed(Compute(s, later)); n != 0 {
		t.Errorf("%d are placed on a machine with a fault", n)
	}
}
