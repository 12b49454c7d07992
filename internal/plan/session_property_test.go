package plan_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

// drawSessions adds sessions in every state; those with a machine hold what is free there, or a
// little more now and then, as where the sessions per machine were changed.
func drawSessions(t *rapid.T, s *plan.Snapshot, pools []string) {
	yes := func(label string) bool { return rapid.IntRange(0, 3).Draw(t, label) == 0 }
	for i := range rapid.IntRange(0, 30).Draw(t, "sessions") {
		age := func(label string) time.Time {
			return ago(time.Duration(rapid.IntRange(0, 4000).Draw(t, label)) * time.Second)
		}
		x := plan.Session{ID: int64(i + 1), User: rapid.SampledFrom([]string{"ada", "bob", "cyd"}).Draw(t, "user"),
			Pool: rapid.SampledFrom(pools).Draw(t, "pool"), State: dspool.SessionWaiting, Since: ago(time.Duration(rapid.IntRange(0, 3).Draw(t, "since")) * time.Second)}
		if !yes("nobody") {
			x.Connections = rapid.IntRange(0, 2).Draw(t, "connections")
		}
		if yes("sized") {
			x.Size = rapid.SampledFrom(sizes).Draw(t, "size").Name
		}
		x.Awaited = yes("awaited")
		x.Kept = yes("an app kept")
		if k := rapid.IntRange(-10, len(s.Machines)-1).Draw(t, "on"); k >= 0 {
			m := s.Machines[k]
			left, _ := free(*s, m)
			if x.Size != "" {
				x.Size = m.Size
			}
			x.Pool, x.Machine, x.Since, x.LastActive, x.Active = m.Pool, m.Name, age("since"), age("active"), yes("active")
			x.State = rapid.SampledFrom([]dspool.SessionState{dspool.SessionPlaced, dspool.SessionOpen, dspool.SessionOpen, dspool.SessionClosing}).Draw(t, "state")
			x.Request = dspool.Resources{CPUs: m.Resources.CPUs / 4, Memory: m.Resources.Memory / 4}
			if yes("small") {
				x.Request.CPUs, x.Request.Memory = x.Request.CPUs/4, x.Request.Memory/4
			}
			if !x.Request.Fits(left) && !yes("overfull") {
				continue
			}
			if yes("kept") {
				x.KeepUntil = now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "keep until")) * time.Second)
			}
		}
		s.Sessions = append(s.Sessions, x)
	}
}

// seated returns the sessions that hold a part of a machine.
func seated(s plan.Snapshot, machine string) (list []plan.Session) {
	for _, x := range s.Sessions {
		if x.Machine == machine && x.State != dspool.SessionWaiting && x.State != dspool.SessionClosed {
			list = append(list, x)
		}
	}
	return list
}

func places(p plan.Pool) int { return cmp.Or(p.Policy.SessionsPerMachine, 4) }

// place is one of n on a machine.
func place(m plan.Machine, n int) dspool.Resources {
	return dspool.Resources{CPUs: math.Floor(m.Resources.CPUs*1000/float64(n)) / 1000, Memory: m.Resources.Memory / int64(n) >> 20 << 20, GPUs: m.Resources.GPUs / n}
}

// verifySessions checks what must hold of every plan for the people.
func verifySessions(t fataler, s plan.Snapshot, p plan.Plan, at time.Time) {
	machines, pools, sessions := map[string]plan.Machine{}, map[string]plan.Pool{}, map[int64]plan.Session{}
	for _, m := range s.Machines {
		machines[m.Name] = m
	}
	for _, d := range p.Destroy {
		delete(machines, d.Machine)
	}
	for _, x := range s.Pools {
		pools[x.Name] = x
	}
	for _, x := range s.Sessions {
		sessions[x.ID] = x
	}
	verifyClosed(t, s, sessions, pools, p, at)
	on := map[string]int{}
	got := map[int64]string{}
	for _, x := range p.Seat {
		m, ok := machines[x.Machine]
		of := sessions[x.Session]
		if got[of.ID] != "" || of.State != dspool.SessionWaiting || of.Pool != m.Pool || !takes(of, m) || !wanted(of) {
			t.Fatalf("session %d is seated on %s, or twice", x.Session, x.Machine)
		}
		got[of.ID] = m.Name
		if !ok || m.State != dspool.Ready || m.Health != dspool.Healthy || m.Cordoned || m.DrainBy != nil || !m.Remove.IsZero() {
			t.Fatalf("%s takes people", x.Machine)
		}
		on[m.Name]++
		if n := on[m.Name] + len(seated(s, m.Name)); n > places(pools[m.Pool]) {
			t.Fatalf("%s has %d sessions", m.Name, n)
		}
		if want := place(m, places(pools[m.Pool])); x.Request != want {
			t.Fatalf("a place on %s is %v, want %v", m.Name, x.Request, want)
		}
	}
	verifyQueue(t, s, p, machines, got)
	verifyMachinesForPeople(t, s, p, machines, pools, got)
}

// takes says whether a machine is of the size that was asked for.
func takes(x plan.Session, m plan.Machine) bool { return x.Size == "" || x.Size == m.Size }

// wanted says whether somebody is in a session, waits for it, or it is kept.
func wanted(x plan.Session) bool { return x.Connections > 0 || x.Awaited || x.Kept }

func verifyClosed(t fataler, s plan.Snapshot, sessions map[int64]plan.Session, pools map[string]plan.Pool, p plan.Plan, at time.Time) {
	closed := map[int64]bool{}
	for _, c := range p.Close {
		x := sessions[c.Session]
		if closed[x.ID] || x.Connections > 0 || x.State == dspool.SessionClosing || x.State == dspool.SessionPlaced {
			t.Fatalf("session %d is closed: %+v", x.ID, x)
		}
		closed[x.ID] = true
	}
	for _, x := range sessions {
		limit := max(cmp.Or(time.Duration(pools[x.Pool].Policy.SessionIdle), time.Hour), 15*time.Second)
		deaf := slices.ContainsFunc(s.Machines, func(m plan.Machine) bool { return m.Name == x.Machine && m.Health != dspool.Healthy })
		over := x.State == dspool.SessionWaiting || x.State == dspool.SessionOpen && !x.Active && !deaf && !x.KeepUntil.After(at) &&
			!x.LastActive.Add(limit).After(at) && !x.Since.Add(limit).After(at)
		going := slices.ContainsFunc(s.Machines, func(m plan.Machine) bool { return m.Name == x.Machine && (!m.Remove.IsZero() || m.DrainBy != nil) })
		over = over && !wanted(x) || x.State == dspool.SessionOpen && x.Kept && going && x.Connections == 0
		if over != closed[x.ID] {
			t.Fatalf("session %d is closed: %v, want %v: %+v", x.ID, closed[x.ID], over, x)
		}
	}
}

// verifyQueue checks that everybody who waits is in the queue of their pool, in order, and
// that nobody got a machine that somebody before them would have taken.
func verifyQueue(t fataler, s plan.Snapshot, p plan.Plan, machines map[string]plan.Machine, got map[int64]string) {
	wait := slices.DeleteFunc(slices.Clone(s.Sessions), func(x plan.Session) bool { return x.State != dspool.SessionWaiting || !wanted(x) })
	slices.SortStableFunc(wait, func(a, b plan.Session) int { return cmp.Compare(a.ID, b.ID) })
	var before []plan.Session // who waits on
	var want []string
	positions := map[string]int{}
	for _, x := range wait {
		if got[x.ID] == "" {
			before = append(before, x)
			positions[x.Pool]++
			want = append(want, fmt.Sprintf("%d: %d", x.ID, positions[x.Pool]))
			continue
		}
		m := machines[got[x.ID]]
		if i := slices.IndexFunc(before, func(y plan.Session) bool { return y.Pool == x.Pool && takes(y, m) }); i >= 0 {
			t.Fatalf("session %d is seated on %s before %d", x.ID, m.Name, before[i].ID)
		}
	}
	var have []string
	for _, q := range p.Queue {
		have = append(have, fmt.Sprintf("%d: %d", q.Session, q.Position))
	}
	if !slices.Equal(have, want) {
		t.Fatalf("the queue is %q, want %q", have, want)
	}
}

// verifyMachinesForPeople checks that no machine is made for which there are no people, and that
// nobody waits where there is a place.
func verifyMachinesForPeople(t fataler, s plan.Snapshot, p plan.Plan, machines map[string]plan.Machine, pools map[string]plan.Pool, got map[int64]string) {
	left, on := map[string]dspool.Resources{}, map[string]int{}
	for _, m := range machines {
		left[m.Name], _ = free(s, m)
	}
	for _, x := range p.Seat {
		left[x.Machine] = left[x.Machine].Sub(x.Request)
		on[x.Machine]++
	}
	var queue []plan.Session
	for _, x := range p.Queue {
		queue = append(queue, s.Sessions[slices.IndexFunc(s.Sessions, func(of plan.Session) bool { return of.ID == x.Session })])
	}
	// waits is how many wait who would take a machine of the size.
	waits := func(pool, size string) (n int) {
		for _, x := range queue {
			if x.Pool == pool && takes(x, plan.Machine{Size: size}) {
				n++
			}
		}
		return n
	}
	verifyKept(t, s, p, pools, on)
	type kind struct{ pool, size string }
	coming, made := map[kind]int{}, map[kind]int{}
	for _, m := range machines {
		if m.Cordoned || m.DrainBy != nil || !m.Remove.IsZero() || len(pools[m.Pool].Sizes) == 0 {
			continue
		}
		n := places(pools[m.Pool])
		place := place(m, n)
		held := on[m.Name] + len(seated(s, m.Name))
		switch {
		case m.State == dspool.Creating || m.State == dspool.Starting:
			for r := left[m.Name]; held < n && place.Fits(r); held++ {
				r = r.Sub(place)
				coming[kind{m.Pool, m.Size}]++
			}
		case m.State == dspool.Ready && m.Health == dspool.Healthy && waits(m.Pool, m.Size) > 0 && held < n && place.Fits(left[m.Name]):
			t.Fatalf("%d people wait in %s though %s has a place", waits(m.Pool, m.Size), m.Pool, m.Name)
		}
	}
	for _, c := range p.Create {
		if !c.Reason.Is(dspool.WhyUserWaits, dspool.WhyUsersWait) {
			continue
		}
		made[kind{c.Pool, c.Size.Name}]++
		asked := slices.ContainsFunc(queue, func(x plan.Session) bool { return x.Pool == c.Pool && x.Size == c.Size.Name })
		if !asked && c.Size.Name != pools[c.Pool].Sizes[0].Name {
			t.Fatalf("a machine of size %s is made for people who did not ask for it", c.Size.Name)
		}
	}
	for k, n := range made {
		per := places(pools[k.pool])
		if need := (max(0, waits(k.pool, k.size)-coming[k]) + per - 1) / per; n > need {
			t.Fatalf("%d machines of size %s are made in %s for %d who wait beside %d places to come", n, k.size, k.pool, waits(k.pool, k.size), coming[k])
		}
	}
	verifySized(t, s, p, pools, queue)
}

// verifySized checks that who asks for a size is told of machines of that size.
func verifySized(t fataler, s plan.Snapshot, p plan.Plan, pools map[string]plan.Pool, queue []plan.Session) {
	for i, x := range queue {
		pool, reason := pools[x.Pool], p.Queue[i].Reason
		has := slices.ContainsFunc(pool.Sizes, func(z dspool.Size) bool { return z.Name == x.Size })
		switch {
		case x.Size == "" || pool.Name == "":
		case !has && testkit.Text(reason) != fmt.Sprintf("pool %s has no size %s", pool.Name, x.Size) && !reason.Is(dspool.WhyComing):
			t.Fatalf("session %d asks for size %s: %s", x.ID, x.Size, testkit.Text(reason))
		case has && strings.Contains(testkit.Text(reason), "of size ") && !strings.Contains(testkit.Text(reason), "of size "+x.Size):
			t.Fatalf("session %d asks for size %s: %s", x.ID, x.Size, testkit.Text(reason))
		}
		if reason.Is(dspool.WhyComing) {
			m := s.Machines[slices.IndexFunc(s.Machines, func(m plan.Machine) bool { return m.Name == reason.Machine })]
			if !takes(x, m) {
				t.Fatalf("session %d asks for size %s: %s", x.ID, x.Size, testkit.Text(reason))
			}
		}
	}
}

// verifyKept checks that people wait only for tasks that are there, and no more of them than
// will find a place on the machine; or one of them for the last tasks of a machine of another size, which
// then makes room.
func verifyKept(t fataler, s plan.Snapshot, p plan.Plan, pools map[string]plan.Pool, on map[string]int) {
	wait, other := map[string]int{}, map[string]int{}
	for _, q := range p.Queue {
		if q.Reason.Is(dspool.WhyWaitsForTasks) {
			name := q.Reason.Machine
			wait[name]++
			m := s.Machines[slices.IndexFunc(s.Machines, func(m plan.Machine) bool { return m.Name == name })]
			x := s.Sessions[slices.IndexFunc(s.Sessions, func(x plan.Session) bool { return x.ID == q.Session })]
			if !takes(x, m) {
				other[x.Pool]++
			}
			if !takes(x, m) && (other[x.Pool] > 1 || wait[name] > 1 || on[name]+len(seated(s, name)) > 0) {
				t.Fatalf("session %d, of size %s, waits for tasks on %s, of size %s", x.ID, x.Size, name, m.Size)
			}
		}
	}
	for _, m := range s.Machines {
		if wait[m.Name] == 0 {
			continue
		}
		n := places(pools[m.Pool])
		place := place(m, n)
		left, room := m.Resources, 0
		for _, x := range seated(s, m.Name) {
			left = left.Sub(x.Request)
		}
		for range on[m.Name] {
			left = left.Sub(place)
		}
		for ; place.Fits(left) && room < n; room++ {
			left = left.Sub(place)
		}
		if most := min(room, n-on[m.Name]-len(seated(s, m.Name))); len(m.Attempts) == 0 || wait[m.Name] > most {
			t.Fatalf("%d people wait for %d tasks on %s, which will have room for %d", wait[m.Name], len(m.Attempts), m.Name, most)
		}
	}
}
