package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/testkit"
)

const (
	opens  = 200 * time.Millisecond // that a placed session takes to open
	closes = 100 * time.Millisecond // that what is left of one takes to end
)

func (w *world) session(id int64) *plan.Session {
	i := slices.IndexFunc(w.s.Sessions, func(s plan.Session) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &w.s.Sessions[i]
}

// login connects a user for a time, to the session they have in the pool or to a new one.
// After the last of a session's connections something of it lives on for a while.
func (w *world) login(user, pool string, stays, lives time.Duration) {
	w.loginTo(user, pool, "", stays, lives)
}

// loginTo is login for a new session on a machine of a size.
func (w *world) loginTo(user, pool, size string, stays, lives time.Duration) {
	i := slices.IndexFunc(w.s.Sessions, func(s plan.Session) bool {
		return s.User == user && s.Pool == pool && s.State != dspool.SessionClosing
	})
	if i < 0 {
		w.logins++
		i = len(w.s.Sessions)
		w.s.Sessions = append(w.s.Sessions, plan.Session{ID: w.logins, User: user, Pool: pool, Size: size, State: dspool.SessionWaiting, Since: w.now, LastActive: w.now})
	}
	w.s.Sessions[i].Connections++
	id := w.s.Sessions[i].ID
	w.after(stays, func() {
		s := w.session(id)
		s.LastActive = w.now
		if s.Connections--; s.Connections > 0 || s.State == dspool.SessionWaiting {
			return
		}
		s.Active = lives > 0
		w.after(lives, func() {
			if s := w.session(id); s != nil && s.Active {
				s.Active, s.LastActive = false, w.now
			}
		})
	})
}

func (w *world) seat(x plan.Seat) {
	s := w.session(x.Session)
	if m := w.machine(x.Machine); !takes(*s, *m) {
		w.t.Fatalf("session %d asks for size %s and gets %s, of size %s", s.ID, s.Size, m.Name, m.Size)
	}
	s.Machine, s.Request, s.State = x.Machine, x.Request, dspool.SessionPlaced
	w.seats = append(w.seats, s.ID)
	w.after(opens, func() {
		if s := w.session(x.Session); s.State == dspool.SessionPlaced {
			s.State, s.LastActive = dspool.SessionOpen, w.now
		}
	})
}

func (w *world) close(id int64) {
	s := w.session(id)
	if s.State == dspool.SessionWaiting {
		w.forget(id)
		return
	}
	if s.Connections > 0 || s.Active {
		w.t.Fatalf("session %d is closed while it lives", id)
	}
	s.State = dspool.SessionClosing
	w.after(closes, func() {
		m := w.machine(w.session(id).Machine)
		w.forget(id)
		w.rest(m)
		w.agent(m)
	})
}

func (w *world) forget(id int64) {
	w.s.Sessions = slices.DeleteFunc(w.s.Sessions, func(s plan.Session) bool { return s.ID == id })
}

// rest notes since when nothing is on a machine.
func (w *world) rest(m *plan.Machine) {
	if len(m.Attempts)+len(seated(w.s, m.Name)) == 0 {
		m.IdleSince = w.now
	}
}

func drawLogins(t *rapid.T, w *world) {
	for range rapid.IntRange(0, 15).Draw(t, "logins") {
		user := rapid.SampledFrom([]string{"ada", "bob", "cyd", "dan", "eve", "fay", "gus"}).Draw(t, "who")
		pool := rapid.SampledFrom([]string{"batch", "lab"}).Draw(t, "to")
		stays := time.Duration(rapid.SampledFrom([]int{100, 3000, 40_000, 300_000}).Draw(t, "stays")) * time.Millisecond
		lives := time.Duration(rapid.SampledFrom([]int{0, 500, 100_000}).Draw(t, "lives")) * time.Millisecond
		size := rapid.SampledFrom([]string{"", "", "small", "big"}).Draw(t, "on")
		at := time.Duration(rapid.SampledFrom([]int{0, 0, 5, 30, 200}).Draw(t, "at")) * time.Second
		w.after(at, func() { w.loginTo(user, pool, size, stays, lives) })
	}
}

func lab(per int) plan.Pool {
	return batch(func(p *plan.Pool) {
		p.Policy.SessionsPerMachine, p.Policy.SessionIdle = per, dspool.Duration(time.Minute)
	})
}

func TestAHerdAtAPoolAtZero(t *testing.T) {
	t.Parallel()
	for _, users := range []int{50, 64, 90} {
		t.Run(fmt.Sprintf("%d people find a place on 4 machines and leave none behind", users), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, snapshot(lab(16), nil))
			w.boot = func() (time.Duration, bool) { return time.Duration(w.machines) * time.Second, false }
			w.after(0, func() {
				for i := range users {
					w.login(fmt.Sprintf("user%d", i), "batch", time.Hour+time.Duration(i)*time.Second, 0)
				}
			})
			w.after(time.Minute, func() {
				if n := len(w.seats); n != min(users, 64) {
					t.Errorf("%d people have a place after a minute", n)
				}
				for i, q := range plan.Compute(w.s, w.now).Queue {
					if q.Position != i+1 || testkit.Text(q.Reason) != "pool batch is at its max of 4 machines and every place is taken" {
						t.Errorf("%+v", q)
					}
				}
			})
			w.after(30*time.Minute, func() {
				if n := len(w.s.Machines); n != 4 {
					t.Errorf("%d machines", n)
				}
			})
			w.run(5000)
			if w.made["batch"] > 4 || len(w.s.Machines)+len(w.s.Sessions) > 0 {
				t.Errorf("%d machines were made, %d are left with %d sessions", w.made["batch"], len(w.s.Machines), len(w.s.Sessions))
			}
			// Who gets no place in time goes; the others were seated as they came.
			if !slices.IsSorted(w.seats) || len(w.seats) < min(users, 64) {
				t.Errorf("seated in the order %v", w.seats)
			}
		})
	}
}

func TestPeopleGetAMachineThatShortTasksNeverLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, snapshot(batch(func(p *plan.Pool) { p.Max, p.Policy.SessionsPerMachine, p.Policy.SessionIdle = 2, 2, 1 }), nil, job(1, "zoe", 60_000, wants(res(0.5, 1)))))
	w.length[1] = 70 * time.Millisecond
	for k := range 5 { // tasks end at different times, so that a machine is never empty by chance
		j := job(int64(k+2), "zoe", 400, wants(res(0.5, 1)))
		w.length[j.ID] = time.Duration(900+170*k) * time.Millisecond
		w.s.Jobs = append(w.s.Jobs, j)
	}
	w.after(20*time.Second, func() { w.login("ada", "batch", time.Minute, 0) })
	w.after(20*time.Second+2*time.Second, func() {
		if len(w.seats) != 1 {
			t.Errorf("ada has no place after the longest of the tasks: %v", lines(plan.Compute(w.s, w.now)))
		}
	})
	w.run(30_000)
	if len(w.s.Machines) > 0 {
		t.Errorf("%d machines are left", len(w.s.Machines))
	}
}

// Where people come and go all day, a machine that they have left goes, since newcomers are
// not sent there while somebody's machine has a place.
func TestAPoolShrinksWhilePeopleCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, snapshot(lab(4), nil))
	most := 0
	for i := range 12 { // the morning
		w.after(time.Duration(i)*time.Second, func() { w.login(fmt.Sprintf("user%d", i), "batch", time.Hour, 0) })
	}
	w.after(0, func() { w.login("stays", "batch", 10*time.Hour, 0) })
	for i := range 200 { // then one comes every other minute, for three
		at := 2*time.Hour + time.Duration(i)*2*time.Minute
		w.after(at, func() {
			w.login(fmt.Sprintf("late%d", i), "batch", 3*time.Minute, 0)
			most = max(most, len(w.s.Machines))
		})
	}
	w.run(10_000)
	if most != 1 || w.peak["batch"] != 4 || len(w.s.Machines) != 0 {
		t.Errorf("up to %d machines for the late, %d for all, %d in the end", most, w.peak["batch"], len(w.s.Machines))
	}
	if strings.Contains(fmt.Sprint(lines(plan.Compute(w.s, w.now))), "session") {
		t.Error("somebody still waits")
	}
}

// Tasks without an end, each as large as a machine of the first size, keep every machine of a full pool busy.
func TestWhoAsksForASizeGetsItThoughTasksNeverLeaveTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, snapshot(batch(func(p *plan.Pool) { p.Max, p.Sizes, p.Policy.SessionIdle = 2, []dspool.Size{small, big}, 1 }), nil, job(1, "zoe", 200, wants(res(0.5, 1)))))
	w.length[1] = 2 * time.Second
	w.s.Jobs = append(w.s.Jobs, job(2, "yan", 200, wants(res(0.5, 1)))) // so that a machine is never empty by chance
	w.length[2] = 3 * time.Second
	w.after(20*time.Second, func() { w.loginTo("ada", "batch", "big", time.Minute, 0) })
	w.after(21*time.Second, func() { w.login("bob", "batch", time.Minute, 0) })
	w.after(30*time.Second, func() {
		if len(w.seats) != 2 || w.session(1).Machine != w.s.Machines[1].Name || w.s.Machines[1].Size != "big" {
			t.Errorf("%+v on %+v", w.s.Sessions, w.s.Machines)
		}
	})
	w.run(5000)
	if w.ran[1] != 200 || w.ran[2] != 200 || len(w.s.Machines) > 0 {
		t.Errorf("%d and %d tasks ran, %d machines are left", w.ran[1], w.ran[2], len(w.s.Machines))
	}
}
