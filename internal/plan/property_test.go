package plan_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

var sizes = []dspool.Size{
	small, big,
	{Name: "wide", Resources: res(8, 4)},
	{Name: "gpu", Resources: dspool.Resources{CPUs: 2, Memory: 8 * gib, GPUs: 2}},
}

func drawRequest(t *rapid.T) dspool.Resources {
	return dspool.Resources{
		CPUs:   float64(rapid.IntRange(1, 9000).Draw(t, "millicpus")) / 1000,
		Memory: rapid.Int64Range(4<<20, 10*gib).Draw(t, "memory"),
		GPUs:   rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "gpus"),
	}
}

func drawSnapshot(t *rapid.T) plan.Snapshot {
	yes := func(label string) bool { return rapid.IntRange(0, 5).Draw(t, label) == 0 }
	age := func(label string) time.Time {
		return ago(time.Duration(rapid.IntRange(0, 100).Draw(t, label)) * time.Second)
	}
	s := plan.Snapshot{
		Capacity:    res(float64(rapid.IntRange(0, 64).Draw(t, "cpus")), rapid.Int64Range(0, 128).Draw(t, "gibs")),
		MaxMachines: rapid.IntRange(0, 12).Draw(t, "max machines"),
	}
	s.Capacity.GPUs = rapid.IntRange(0, 4).Draw(t, "gpus")
	names := []string{"batch", "lab", "gone"}
	for _, name := range names[:2] {
		p := plan.Pool{Pool: dspool.Pool{Name: name,
			Max: rapid.IntRange(1, 6).Draw(t, "max"), Spare: rapid.IntRange(0, 2).Draw(t, "spare"),
			Policy: dspool.PoolPolicy{IdleAfter: dspool.Duration(rapid.IntRange(0, 60).Draw(t, "idle after")) * dspool.Duration(time.Second)}}}
		p.Min = rapid.IntRange(0, p.Max).Draw(t, "min")
		p.Sizes = rapid.Permutation(sizes).Draw(t, "sizes")[:rapid.IntRange(1, len(sizes)).Draw(t, "number of sizes")]
		p.Policy.SessionsPerMachine = rapid.IntRange(0, 7).Draw(t, "sessions per machine")
		p.Policy.SessionIdle = dspool.Duration(rapid.IntRange(0, 60).Draw(t, "session idle")) * dspool.Duration(time.Second)
		if yes("blocked") {
			p.Blocked = testkit.Stated("the image is being built")
		}
		if yes("failing") {
			p.LastFailure, p.BackoffUntil = testkit.Stated("no luck"), now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "back-off"))*time.Second)
		}
		s.Pools = append(s.Pools, p)
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "jobs") {
		j := plan.Job{ID: int64(i + 1), User: rapid.SampledFrom([]string{"ada", "bob", "cyd"}).Draw(t, "user"), Pool: rapid.SampledFrom(names).Draw(t, "pool"),
			Request: drawRequest(t), Pending: rapid.SampledFrom([]int64{0, 1, 3, 40, 1_000_000}).Draw(t, "pending"), Placed: rapid.Int64Range(0, 5).Draw(t, "placed"),
			Created: age("created"), TaskTime: time.Duration(rapid.SampledFrom([]int{0, 1, 40, 900, 5000}).Draw(t, "task time")) * time.Millisecond}
		if yes("max running") {
			j.MaxRunning = rapid.IntRange(1, 8).Draw(t, "at most")
		}
		if yes("blocked") {
			j.Blocked = testkit.Stated("waits for job 99")
		}
		if yes("sized") {
			j.Size = rapid.SampledFrom(sizes).Draw(t, "size").Name
		}
		s.Jobs = append(s.Jobs, j)
	}
	id := int64(0)
	for i := range rapid.IntRange(0, 10).Draw(t, "machines") {
		size := rapid.SampledFrom(sizes).Draw(t, "size")
		m := plan.Machine{Name: fmt.Sprintf("m-%d", i), Pool: rapid.SampledFrom(names).Draw(t, "pool"), Size: size.Name, Resources: size.Resources,
			State:  rapid.SampledFrom([]dspool.MachineState{dspool.Creating, dspool.Starting, dspool.Ready, dspool.Ready, dspool.Ready, dspool.Ready, dspool.Stopped, dspool.Destroying, dspool.Gone}).Draw(t, "state"),
			Health: dspool.Healthy, IdleSince: age("idle since"), Cordoned: yes("cordoned")}
		if yes("drain") {
			at := now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "drain by")) * time.Second)
			m.DrainBy = &at
		}
		if yes("remove") {
			m.Remove = testkit.Stated("removed by root")
		}
		if yes("sick") {
			m.Health = dspool.Unhealthy
		}
		if m.State == dspool.Ready {
			left := size.Resources
			for range rapid.IntRange(0, 6).Draw(t, "attempts") {
				id++
				a := plan.Attempt{ID: id, Job: 99, Since: age("since"), Recall: yes("recall")}
				if len(s.Jobs) > 0 {
					of := rapid.SampledFrom(s.Jobs).Draw(t, "attempt of")
					a.Job, a.Request = of.ID, of.Request
				} else {
					a.Request = drawRequest(t)
				}
				if rapid.Bool().Draw(t, "just now") {
					a.Since = now
				}
				if a.Request.Fits(left) {
					if a.Running = yes("running"); a.Running {
						left = left.Sub(a.Request)
					}
				}
				m.Attempts = append(m.Attempts, a)
			}
		}
		s.Machines = append(s.Machines, m)
	}
	drawSessions(t, &s, names)
	return s
}

// clone copies all that a computation could write to.
func clone(s plan.Snapshot) plan.Snapshot {
	s.Pools, s.Machines, s.Jobs, s.Sessions = slices.Clone(s.Pools), slices.Clone(s.Machines), slices.Clone(s.Jobs), slices.Clone(s.Sessions)
	for i := range s.Pools {
		s.Pools[i].Sizes = slices.Clone(s.Pools[i].Sizes)
	}
	for i := range s.Machines {
		s.Machines[i].Attempts = slices.Clone(s.Machines[i].Attempts)
	}
	return s
}

// free is what the claims on a machine leave: sessions and running attempts, then what fits beside them.
func free(s plan.Snapshot, m plan.Machine) (left dspool.Resources, ahead int) {
	left = m.Resources
	for _, x := range seated(s, m.Name) {
		left = left.Sub(x.Request)
	}
	for _, a := range m.Attempts {
		if a.Running {
			left = left.Sub(a.Request)
		}
	}
	for _, a := range m.Attempts {
		switch {
		case a.Running:
		case a.Request.Fits(left):
			left = left.Sub(a.Request)
		default:
			ahead++
		}
	}
	return left, ahead
}

// fataler is what *testing.T and *rapid.T have in common here.
type fataler interface{ Fatalf(string, ...any) }

// verify checks what must hold of every plan.
func verify(t fataler, s plan.Snapshot, at time.Time) plan.Plan {
	before := clone(s)
	p := plan.Compute(s, at)
	if !reflect.DeepEqual(before, s) {
		t.Fatalf("the snapshot was modified:\n%s", cmp.Diff(before, s))
	}
	if again := plan.Compute(s, at); !reflect.DeepEqual(p, again) {
		t.Fatalf("a second computation differs:\n%s", cmp.Diff(p, again))
	}
	verifyMachines(t, s, p, at)
	verifyTasks(t, s, p)
	verifySessions(t, s, p, at)
	if !p.WakeAt.IsZero() && !p.WakeAt.After(at) {
		t.Fatalf("it wakes at %v, which is not after %v", p.WakeAt, at)
	}
	for _, line := range lines(p) {
		if strings.Contains(line, "%!") || strings.HasSuffix(line, ": ") || strings.Contains(line, ": ;") {
			t.Fatalf("bad sentence: %s", line)
		}
	}
	return p
}

func verifyMachines(t fataler, s plan.Snapshot, p plan.Plan, at time.Time) {
	machines, exist, total := map[string]plan.Machine{}, map[string]int{}, dspool.Resources{}
	for _, m := range s.Machines {
		if !m.State.Ended() {
			machines[m.Name] = m
			exist[m.Pool]++
			total = total.Add(m.Resources)
		}
	}
	creates := map[string]int{}
	for _, c := range p.Create {
		creates[c.Pool]++
		total = total.Add(c.Size.Resources)
	}
	if len(p.Create) > 0 {
		if !total.Fits(s.Capacity) {
			t.Fatalf("machines of %v exceed the hosts' %v", total, s.Capacity)
		}
		if s.MaxMachines > 0 && len(machines)+len(p.Create) > s.MaxMachines {
			t.Fatalf("%d machines exceed the provider's %d", len(machines)+len(p.Create), s.MaxMachines)
		}
	}
	for _, pool := range s.Pools {
		n := creates[pool.Name]
		if n > 0 && exist[pool.Name]+n > pool.Max {
			t.Fatalf("pool %s gets %d machines, its max is %d", pool.Name, exist[pool.Name]+n, pool.Max)
		}
		if n > 0 && (!pool.Blocked.IsZero() || pool.BackoffUntil.After(at)) || n > 1 && !pool.LastFailure.IsZero() {
			t.Fatalf("pool %s creates %d machines though it must not", pool.Name, n)
		}
		delete(creates, pool.Name)
	}
	if len(creates) > 0 {
		t.Fatalf("machines for unknown pools: %v", creates)
	}
	for _, d := range p.Destroy {
		m, ok := machines[d.Machine]
		if !ok || m.State == dspool.Destroying {
			t.Fatalf("%s is destroyed, or destroyed twice", d.Machine)
		}
		if len(m.Attempts)+len(seated(s, m.Name)) > 0 && (m.DrainBy == nil || m.DrainBy.After(at)) {
			t.Fatalf("%s is destroyed with attempts or sessions on it: %s", d.Machine, d.Reason)
		}
		if m.Cordoned && m.DrainBy == nil && m.Remove.IsZero() && m.Pool != "gone" {
			t.Fatalf("%s is cordoned and destroyed: %s", d.Machine, d.Reason)
		}
		delete(machines, d.Machine)
	}
	left, ahead := map[string]dspool.Resources{}, map[string]int{}
	for _, m := range machines {
		left[m.Name], ahead[m.Name] = free(s, m)
	}
	for _, x := range p.Seat {
		left[x.Machine] = left[x.Machine].Sub(x.Request)
		if !(dspool.Resources{}).Fits(left[x.Machine]) {
			t.Fatalf("%s is overfull of people", x.Machine)
		}
	}
	jobs := map[int64]plan.Job{}
	for _, j := range s.Jobs {
		jobs[j.ID] = j
	}
	for _, x := range p.Place {
		m, ok := machines[x.Machine]
		j := jobs[x.Job]
		if !ok || m.State != dspool.Ready || m.Health != dspool.Healthy || m.Cordoned || m.DrainBy != nil || !m.Remove.IsZero() {
			t.Fatalf("%s takes tasks", x.Machine)
		}
		if m.Pool != j.Pool || j.Size != "" && j.Size != m.Size || !j.Request.Fits(m.Resources) {
			t.Fatalf("job %d on %s, which is not for it", x.Job, x.Machine)
		}
		if x.Reason.Is(dspool.WhyPlacedAhead) {
			if ahead[m.Name] += x.Count; ahead[m.Name] > 64 || j.TaskTime == 0 || j.TaskTime >= time.Second {
				t.Fatalf("%d tasks are ahead on %s", ahead[m.Name], x.Machine)
			}
			continue
		}
		for range x.Count {
			if !j.Request.Fits(left[m.Name]) {
				t.Fatalf("%s is overfull", x.Machine)
			}
			left[m.Name] = left[m.Name].Sub(j.Request)
		}
	}
}

func verifyTasks(t fataler, s plan.Snapshot, p plan.Plan) {
	placed, waiting := map[int64]int64{}, map[int64]int{}
	for _, x := range p.Place {
		if x.Count <= 0 {
			t.Fatalf("%d tasks are placed", x.Count)
		}
		placed[x.Job] += int64(x.Count)
	}
	for _, w := range p.Waiting {
		waiting[w.Job]++
	}
	wanted := int64(0)
	for _, j := range s.Jobs {
		n := placed[j.ID]
		if n > j.Pending || n > 0 && !j.Blocked.IsZero() {
			t.Fatalf("job %d gets %d tasks of %d placed", j.ID, n, j.Pending)
		}
		if n > 0 && j.MaxRunning > 0 && j.Placed+n > int64(j.MaxRunning) {
			t.Fatalf("job %d gets %d tasks beside %d, at most %d may run", j.ID, n, j.Placed, j.MaxRunning)
		}
		want := 0
		if j.Pending > n {
			want = 1
			wanted += j.Pending - n
		}
		if waiting[j.ID] != want {
			t.Fatalf("job %d has %d reasons to wait, want %d", j.ID, waiting[j.ID], want)
		}
	}
	kept := 0
	for _, c := range p.Create {
		if c.Reason.Is(dspool.WhyKeepsMin, dspool.WhyKeepsSpare, dspool.WhyUserWaits, dspool.WhyUsersWait) {
			kept++
		}
	}
	if int64(len(p.Create)-kept) > wanted {
		t.Fatalf("%d machines are created for %d tasks", len(p.Create)-kept, wanted)
	}
	recalled := map[int64]bool{}
	for _, r := range p.Recall {
		if recalled[r.Attempt] {
			t.Fatalf("attempt %d is asked back twice", r.Attempt)
		}
		recalled[r.Attempt] = true
	}
	for _, m := range s.Machines {
		for _, a := range m.Attempts {
			if recalled[a.ID] && (a.Running || a.Recall) {
				t.Fatalf("attempt %d is asked back though it runs or is already", a.ID)
			}
		}
	}
}

func TestEveryPlanKeepsItsPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { verify(t, drawSnapshot(t), now) })
}

func TestOnePassLeavesNoRoomUnused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		p := plan.Compute(s, now)
		reserved := strings.Join(lines(p), "\n")
		kept := map[string]bool{} // for people
		for _, q := range p.Queue {
			if q.Reason.Is(dspool.WhyWaitsForTasks) {
				kept[q.Reason.Machine] = true
			}
		}
		left := map[string]dspool.Resources{}
		for _, m := range s.Machines {
			left[m.Name], _ = free(s, m)
		}
		for _, x := range p.Seat {
			left[x.Machine] = left[x.Machine].Sub(x.Request)
		}
		for _, d := range p.Destroy {
			delete(left, d.Machine)
		}
		placed := map[int64]int64{}
		for _, x := range p.Place {
			j := s.Jobs[x.Job-1]
			placed[j.ID] += int64(x.Count)
			if !x.Reason.Is(dspool.WhyPlacedAhead) {
				for range x.Count {
					left[x.Machine] = left[x.Machine].Sub(j.Request)
				}
			}
		}
		for _, j := range s.Jobs {
			if j.Pending == placed[j.ID] || !j.Blocked.IsZero() || j.MaxRunning > 0 && j.Placed+placed[j.ID] >= int64(j.MaxRunning) || j.Pool == "gone" {
				continue
			}
			for _, m := range s.Machines {
				room, ok := left[m.Name]
				usable := ok && !kept[m.Name] && m.State == dspool.Ready && m.Health == dspool.Healthy && !m.Cordoned && m.DrainBy == nil && m.Remove.IsZero()
				if usable && m.Pool == j.Pool && (j.Size == "" || j.Size == m.Size) && j.Request.Fits(room) && !strings.Contains(reserved, fmt.Sprintf("job %d: machine %s is reserved", j.ID, m.Name)) &&
					!regexp.MustCompile(fmt.Sprintf(`job %d: machine \S+ is kept for`, j.ID)).MatchString(reserved) {
					t.Fatalf("job %d waits though %s has room: %q\n%+v", j.ID, m.Name, lines(p), s)
				}
			}
		}
	})
}

// Nothing but a back-off's countdown changes before WakeAt, so that nobody has to ask
// again before then and reasons are not written anew on every pass.
func TestTimeAloneChangesNothingBeforeWakeAt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		for i := range s.Jobs {
			s.Jobs[i].TaskTime = 0 // how young the claims of short tasks are matters to what is placed ahead
		}
		first := plan.Compute(s, now)
		wait := 1000 * time.Hour
		if !first.WakeAt.IsZero() {
			wait = first.WakeAt.Sub(now) - 1
		}
		later := plan.Compute(s, now.Add(time.Duration(rapid.Int64Range(0, int64(wait)).Draw(t, "later"))))
		for _, p := range []*plan.Plan{&first, &later} {
			for i := range p.Destroy {
				if p.Destroy[i].Reason.Is(dspool.WhyIdle, dspool.WhyIdleUnhealthy) {
					p.Destroy[i].Reason = timeless(p.Destroy[i].Reason)
				}
			}
			for i := range p.Waiting {
				p.Waiting[i].Reason = timeless(p.Waiting[i].Reason)
			}
			for i := range p.Notes {
				p.Notes[i].Reason = timeless(p.Notes[i].Reason)
			}
			for i := range p.Queue {
				p.Queue[i].Reason = timeless(p.Queue[i].Reason)
			}
		}
		if !reflect.DeepEqual(first, later) {
			t.Fatalf("%s", cmp.Diff(first, later))
		}
	})
}
