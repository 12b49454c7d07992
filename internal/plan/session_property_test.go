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
		x.Awaited = yes("awaited")
		x.Kept = yes("an app kept")
		if k := rapid.IntRange(-10, len(s.Machines)-1).Draw(t, "on"); k >= 0 {
			m := s.Machines[k]
			left, _ := free(*s, m)
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
		if got[of.ID] != "" || of.State != dspool.SessionWaiting || of.Pool != m.Pool || !wanted(of) {
			t.Fatalf("session %d is seated on %s, or twice", x.Session, x.Machine)
		}
		got[of.ID] = m.Name
		if !ok || m.State != dspool.Ready || m.Health != dspool.Healthy || m.Cordoned || m.DrainBy != nil || m.Remove != "" {
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
	verifyQueue(t, s, p, got)
	verifyMachinesForPeople(t, s, p, machines, pools, got)
}

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
		going := slices.ContainsFunc(s.Machines, func(m plan.Machine) bool { return m.Name == x.Machine && (m.Remove != "" || m.DrainBy != nil) })
		over = over && !wanted(x) || x.State == dspool.SessionOpen && x.Kept && going && x.Connections == 0
		if over != closed[x.ID] {
			t.Fatalf("session %d is closed: %v, want %v: %+v", x.ID, closed[x.ID], over, x)
		}
	}
}

// verifyQueue checks that everybody who waits is in the queue of their pool, in order, and
// that nobody overtook them.
func verifyQueue(t fataler, s plan.Snapshot, p plan.Plan, got map[int64]string) {
	wait := slices.DeleteFunc(slices.Clone(s.Sessions), func(x plan.Session) bool { return x.State != dspool.SessionWaiting || !wanted(x) })
	slices.SortStableFunc(wait, func(a, b plan.Session) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	first := map[string]int64{}
	var want []string
	positions := map[string]int{}
	for _, x := range wait {
		if got[x.ID] == "" {
			first[x.Pool] = cmp.Or(first[x.Pool], x.ID)
			positions[x.Pool]++
			want = append(want, fmt.Sprintf("%d: %d", x.ID, positions[x.Pool]))
		} else if first[x.Pool] != 0 {
			t.Fatalf("session %d is seated before %d", x.ID, first[x.Pool])
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
	waits := map[string]int{}
	for _, x := range p.Queue {
		for _, of := range s.Sessions {
			if of.ID == x.Session {
				waits[of.Pool]++
			}
		}
	}
	verifyKept(t, s, p, pools, on)
	coming, made := map[string]int{}, map[string]int{}
	for _, m := range machines {
		if m.Cordoned || m.DrainBy != nil || m.Remove != "" || len(pools[m.Pool].Sizes) == 0 {
			continue
		}
		n := places(pools[m.Pool])
		place := place(m, n)
		held := on[m.Name] + len(seated(s, m.Name))
		switch {
		case m.State == dspool.Creating || m.State == dspool.Starting:
			for r := left[m.Name]; held < n && place.Fits(r); held++ {
				r = r.Sub(place)
				coming[m.Pool]++
			}
		case m.State == dspool.Ready && m.Health == dspool.Healthy && waits[m.Pool] > 0 && held < n && place.Fits(left[m.Name]):
			t.Fatalf("%d people wait in %s though %s has a place", waits[m.Pool], m.Pool, m.Name)
		}
	}
	for _, c := range p.Create {
		if strings.Contains(c.Reason, "log in") {
			if made[c.Pool]++; c.Size.Name != pools[c.Pool].Sizes[0].Name {
				t.Fatalf("a machine of size %s is made for people", c.Size.Name)
			}
		}
	}
	for name, n := range made {
		per := places(pools[name])
		if need := (max(0, waits[name]-coming[name]) + per - 1) / per; n > need {
			t.Fatalf("%d machines are made in %s for %d who wait beside %d places to come", n, name, waits[name], coming[name])
		}
	}
}

// verifyKept checks that people wait only for tasks that are there, and no more of them than
// will find a place on the machine.
func verifyKept(t fataler, s plan.Snapshot, p plan.Plan, pools map[string]plan.Pool, on map[string]int) {
	wait := map[string]int{}
	for _, q := range p.Queue {
		if _, name, ok := strings.Cut(q.Reason, "tasks on machine "); ok {
			wait[strings.TrimSuffix(name, " to end")]++
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
