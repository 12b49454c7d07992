package control_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/usage"
)

var (
	firstDay = time.Date(2026, 2, 26, 0, 0, 0, 0, time.UTC)
	root     = auth.Subject{Admin: true}
)

const day = 24 * time.Hour

// past is a made-up history: what the bill is computed from, and a store that holds it.
type past struct {
	*control.Control
	t        testing.TB
	now      time.Time
	clock    *clocktest.Clock
	machines []usage.Machine
	claims   []usage.Claim
	rows     []row // of claims
}

type row struct {
	attempt store.AttemptRow
	session store.SessionRow
}

func newPast(t testing.TB, path string, now time.Time) *past {
	p := &past{t: t, now: now, clock: clocktest.Standing(now)}
	s, err := store.Open(t.Context(), path, store.WithClock(p.clock.Read))
	if err != nil {
		t.Fatal(err)
	}
	p.Control = control.New(control.Options{Store: s})
	return p
}

func (p *past) close() {
	p.Control.Close()
	if err := p.Store.Close(); err != nil {
		p.t.Error(err)
	}
}

func (p *past) write(fn func(tx *store.Tx) error) {
	p.t.Helper()
	if err := p.Store.Write(p.t.Context(), fn); err != nil {
		p.t.Fatal(err)
	}
}

// end is a time in the form of a row: nil, if it has not come yet.
func (p *past) end(t time.Time) *time.Time {
	if t.After(p.now) {
		return nil
	}
	return &t
}

func (p *past) addMachine(m usage.Machine) {
	p.write(func(tx *store.Tx) error {
		r := store.MachineRow{Seen: p.now, Machine: dspool.Machine{Name: m.Machine, Pool: m.Pool, Size: m.Size, Resources: m.Resources, Price: m.Price,
			State: dspool.Ready, Created: m.From, Ended: p.end(m.To)}}
		if r.Ended != nil {
			r.State = dspool.Gone
		}
		return tx.InsertMachine(r)
	})
	p.machines = append(p.machines, m)
}

func (p *past) addTask(c usage.Claim) {
	var r row
	p.write(func(tx *store.Tx) error {
		j := store.JobRow{Job: dspool.Job{User: c.User, State: dspool.JobRunning, Spec: dspool.JobSpec{Pool: "batch"}}, UID: c.UID}
		if err := tx.InsertJob(&j); err != nil {
			return err
		}
		c.Job = j.ID
		a := store.AttemptRow{Job: j.ID, User: c.User, State: dspool.TaskRunning, Assigned: c.From, Started: &c.From, Ended: p.end(c.To),
			Claims: []store.ClaimRow{{Machine: c.Machine, Request: c.Request, Started: &c.From, Ended: p.end(c.To)}}}
		as, err := tx.InsertAttempts([]store.AttemptRow{a})
		if err != nil {
			return err
		}
		r.attempt = as[0]
		if a.Ended != nil {
			j.State, j.Ended = dspool.JobSucceeded, a.Ended
		}
		return tx.UpdateJob(j)
	})
	c.Kind = usage.KindTask
	p.claims, p.rows = append(p.claims, c), append(p.rows, r)
}

func (p *past) addSession(c usage.Claim) {
	var r row
	p.write(func(tx *store.Tx) error {
		r.session = store.SessionRow{UID: c.UID, Session: dspool.Session{User: c.User, Pool: fmt.Sprint("p", len(p.rows)), Machine: c.Machine, Request: c.Request,
			State: dspool.SessionOpen, Created: c.From, Placed: &c.From, Ended: p.end(c.To)}}
		if r.session.Ended != nil {
			r.session.State = dspool.SessionClosed
		}
		return tx.InsertSession(&r.session)
	})
	c.Session, c.Kind = r.session.ID, usage.KindSession
	if c.User == dspool.HubUser {
		c.Kind = usage.KindService
	}
	p.claims, p.rows = append(p.claims, c), append(p.rows, r)
}

// endLate ends what was open, at a time that may be long ago.
func (p *past) endLate(i int, at time.Time) {
	c, r := &p.claims[i], &p.rows[i]
	c.To = at
	p.write(func(tx *store.Tx) error {
		if c.Session != 0 {
			r.session.State, r.session.Ended = dspool.SessionClosed, &at
			return tx.UpdateSession(r.session)
		}
		r.attempt.State, r.attempt.Ended, r.attempt.Claims[0].Ended = dspool.TaskSucceeded, &at, &at
		return tx.UpdateAttempts([]store.AttemptRow{r.attempt})
	})
}

func (p *past) fold() {
	p.t.Helper()
	if err := p.Fold(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

func (p *past) bill(by usage.By, from, to time.Time) api.Usage {
	p.t.Helper()
	u, err := p.Usage(p.t.Context(), root, string(by), from, to)
	if err != nil {
		p.t.Fatal(err)
	}
	return u
}

// oracle is the bill made at once from everything there ever was, without days.
func (p *past) oracle(by usage.By, from, to time.Time) []dspool.UsageRow {
	if to.After(p.now) {
		to = p.now
	}
	if !from.Before(to) {
		return nil // no time, no bill
	}
	var machines []usage.Machine
	for _, m := range p.machines {
		if m.From.Before(to) && (!m.From.Before(from) || m.To.After(from)) {
			m.From, m.To = later(m.From, from), earlier(m.To, to)
			machines = append(machines, m) // also one without time: its tasks count
		}
	}
	var claims []usage.Claim
	for _, c := range p.claims {
		if c.From.Before(to) && (!c.From.Before(from) || c.To.After(from)) {
			c.From, c.To = later(c.From, from), earlier(c.To, to)
			c.UID = 0
			claims = append(claims, c)
		}
	}
	return usage.Compute(machines, claims).Rows(by)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// near compares to the cent and to the second, by what the rows stand for.
func near(t *rapid.T, what string, want, got []dspool.UsageRow) {
	t.Helper()
	type key struct{ key, pool, user string }
	all := map[key][2]dspool.UsageRow{}
	for i, rows := range [][]dspool.UsageRow{want, got} {
		for _, r := range rows {
			k := key{r.Key, r.Pool, r.User}
			pair := all[k]
			pair[i] = r
			all[k] = pair
		}
	}
	for k, pair := range all {
		w, g := pair[0], pair[1]
		if w.Tasks != g.Tasks || math.Abs(w.Cost-g.Cost) > 1e-3 || math.Abs(w.MachineSeconds-g.MachineSeconds) > 1e-2 || math.Abs(w.CPUSeconds-g.CPUSeconds) > 1e-2 ||
			math.Abs(w.GiBSeconds-g.GiBSeconds) > 1e-2 || math.Abs(w.GPUSeconds-g.GPUSeconds) > 1e-2 {
			t.Fatalf("%s: %v is\n%+v, want\n%+v", what, k, g, w)
		}
	}
}

func (p *past) draw(t *rapid.T, days int) {
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		at := firstDay.Add(time.Duration(rapid.Int64Range(0, int64(days)*int64(day/time.Second)).Draw(t, "second")) * time.Second)
		if rapid.IntRange(0, 4).Draw(t, "midnight") == 0 {
			at = at.Truncate(day)
		}
		return at
	})
	var machines []usage.Machine
	for i := range rapid.IntRange(1, 4).Draw(t, "machines") {
		from, to := moment.Draw(t, "created"), moment.Draw(t, "gone")
		if to.Before(from) {
			from, to = to, from
		}
		if rapid.IntRange(0, 3).Draw(t, "lives") == 0 {
			to = firstDay.AddDate(5, 0, 0)
		}
		if from.After(p.now) {
			from = p.now
		}
		if to.After(p.now) {
			to = firstDay.AddDate(5, 0, 0)
		}
		machines = append(machines, usage.Machine{
			Machine: fmt.Sprintf("m-%d", i), Pool: []string{"batch", "lab"}[i%2], Size: rapid.SampledFrom([]string{"small", "large"}).Draw(t, "size"),
			Resources: dspool.Resources{CPUs: float64(rapid.IntRange(1, 8).Draw(t, "cpus")), Memory: int64(rapid.IntRange(1, 32).Draw(t, "gib")) << 30, GPUs: i % 3},
			Price:     float64(rapid.IntRange(0, 100).Draw(t, "price")) / 7, From: from, To: to,
		})
	}
	slices.SortStableFunc(machines, func(a, b usage.Machine) int { return a.From.Compare(b.From) }) // as they are numbered
	for _, m := range machines {
		p.addMachine(m)
	}
	for i := range rapid.IntRange(0, 25).Draw(t, "claims") {
		from, to := moment.Draw(t, "began"), moment.Draw(t, "ended")
		if to.Before(from) {
			from, to = to, from
		}
		on := rapid.SampledFrom(p.machines).Draw(t, "on")
		from = later(earlier(from, on.To.Add(-time.Second)), on.From)
		if to.Before(from) || rapid.IntRange(0, 4).Draw(t, "noTime") == 0 {
			to = from
		}
		if from.After(p.now) {
			continue
		}
		if to.After(p.now) || rapid.IntRange(0, 5).Draw(t, "lasts") == 0 {
			to = firstDay.AddDate(5, 0, 0)
		}
		user := rapid.SampledFrom([]string{"ada", "bob", dspool.HubUser}).Draw(t, "user")
		c := usage.Claim{Machine: on.Machine, User: user, UID: 20000 + len(user), From: from, To: to,
			Request: dspool.Resources{CPUs: float64(rapid.IntRange(1, 4000).Draw(t, "milli")) / 1000, Memory: int64(rapid.IntRange(1, 8).Draw(t, "need")) << 30, GPUs: i % 2}}
		if rapid.Bool().Draw(t, "session") {
			p.addSession(c)
		} else {
			p.addTask(c)
		}
	}
}

func TestTheBillIsTheSameBeforeAndAfterFolding(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	template := filepath.Join(dir, "template")
	newPast(t, template, firstDay).close()
	empty, err := os.ReadFile(template)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint("state", n))
		if err := os.WriteFile(path, empty, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		const days = 6
		p := newPast(t, path, firstDay.Add(days*day+5*time.Hour))
		defer p.close()
		p.draw(r, days)
		cut := func(name string) time.Time {
			at := firstDay.Add(time.Duration(rapid.Int64Range(0, int64((days+1)*day/time.Second)).Draw(r, name)) * time.Second)
			if rapid.Bool().Draw(r, "whole "+name) {
				at = at.Truncate(day)
			}
			return at
		}
		from, to := cut("from"), cut("to")
		if to.Before(from) {
			from, to = to, from
		}
		from, to = earlier(from, p.now), earlier(to, p.now)
		bills := func(by usage.By) []api.Usage { return []api.Usage{p.bill(by, firstDay, p.now), p.bill(by, from, to)} }
		all := []usage.By{usage.ByUser, usage.ByPool, usage.ByJob}
		check := func(when string) (out [][]api.Usage) {
			for _, by := range all {
				b := bills(by)
				near(r, when+" all by "+string(by), p.oracle(by, firstDay, p.now), b[0].Rows)
				near(r, when+" part by "+string(by), p.oracle(by, from, to), b[1].Rows)
				out = append(out, b)
			}
			return out
		}
		same := func(when string, want, got [][]api.Usage) {
			if diff := cmp.Diff(want, got); diff != "" {
				r.Fatalf("%s the bill differs (-before +after):\n%s", when, diff)
			}
		}
		before := check("before folding")
		p.fold()
		same("folded", before, check("folded"))
		p.fold()
		same("folded again", before, check("folded again"))

		// An agent that was cut off tells of an end long ago.
		for i, c := range p.claims {
			if c.To.After(p.now) && rapid.Bool().Draw(r, "late") {
				at := c.From.Add(time.Duration(rapid.Float64Range(0, 1).Draw(r, "part") * float64(p.now.Sub(c.From)))).Truncate(time.Microsecond)
				p.endLate(i, at)
			}
		}
		before = check("told late")
		p.fold()
		same("told late and folded", before, check("told late and folded"))

		// What is forgotten is still paid for.
		p.write(func(tx *store.Tx) error {
			return tx.SetSetting("retention", `{"Events":"24h","Jobs":"72h","Sessions":"48h"}`)
		})
		p.clock.Pass(5 * day)
		p.now = p.now.Add(5 * day)
		p.fold()
		whole := func() (out []api.Usage) {
			for _, by := range all[:2] {
				out = append(out, p.bill(by, firstDay, p.now), p.bill(by, store.Day(from), store.Day(to)))
			}
			return out
		}
		kept := whole()
		byJob := p.bill(usage.ByJob, firstDay, p.now).Cost
		if err := p.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(kept, whole()); diff != "" {
			r.Fatalf("what was forgotten changed the bill (-before +after):\n%s", diff)
		}
		if got := p.bill(usage.ByJob, firstDay, p.now).Cost; math.Abs(got-byJob) > 1e-6 {
			r.Fatalf("by job it costs %v, and did %v", got, byJob)
		}
	})
}

// Time that was lived is paid for once, also where the clock was set back into days that were folded.
func TestFoldedDaysWhoseClockWasSetAreFoldedAnew(t *testing.T) {
	t.Parallel()
	p := newPast(t, filepath.Join(t.TempDir(), "state.db"), firstDay.Add(6*time.Hour))
	defer p.close()
	m := store.MachineRow{Machine: dspool.Machine{Name: "m-1", Pool: "batch", Size: "small", Resources: dspool.Resources{CPUs: 1, Memory: 1 << 30}, Price: 1, State: dspool.Ready}}
	p.write(func(tx *store.Tx) error { return tx.InsertMachine(m) })
	lived := time.Duration(0)
	check := func(when string) {
		t.Helper()
		for _, stage := range []string{"before", "after"} {
			var got, byDay float64
			for _, r := range p.bill(usage.ByUser, firstDay.AddDate(0, 0, -30), firstDay.AddDate(0, 0, 60)).Rows {
				got += r.MachineSeconds
			}
			for d := range 90 {
				from := firstDay.AddDate(0, 0, d-30)
				if from.After(p.Store.Now()) {
					break
				}
				for _, r := range p.bill(usage.ByUser, from, from.AddDate(0, 0, 1)).Rows {
					byDay += r.MachineSeconds
				}
			}
			if math.Abs(got-lived.Seconds()) > 1e-3 || math.Abs(byDay-lived.Seconds()) > 1e-3 {
				t.Errorf("%s, %s folding, the bill is of %v, day by day of %v, and it lived %v", when, stage, got, byDay, lived.Seconds())
			}
			p.fold()
		}
	}
	pass := func(d time.Duration) {
		p.clock.Pass(d)
		lived += d
	}
	pass(50 * time.Hour)
	check("at first")
	p.clock.Set(-30 * time.Hour)
	pass(time.Hour)
	check("set back")
	pass(47 * time.Hour)
	check("after two days more")
	p.clock.Set(100 * time.Hour)
	pass(3 * time.Hour)
	check("set ahead")
	p.clock.Set(-100 * time.Hour)
	pass(30 * time.Hour)
	check("set right again")
	p.write(func(tx *store.Tx) error {
		ms, err := tx.LiveMachines()
		if err != nil {
			return err
		}
		now := tx.Now()
		ms[0].State, ms[0].Ended = dspool.Gone, &now
		return tx.UpdateMachine(ms[0])
	})
	p.clock.Pass(72 * time.Hour)
	check("when it had ended")
}
