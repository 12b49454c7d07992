package reconcile

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/store"
)

// Limits of what lies in the state below.
const (
	idleAfter   = 10 * time.Minute
	sessionIdle = 20 * time.Minute
	drainIn     = 30 * time.Minute
	keptFor     = 40 * time.Minute
	often       = 3 * time.Minute // plans are made within that
)

// Whatever the clock does, nothing ends before its time was lived, and everything ends when it was.
func TestNoPlanActsOnTimeThatNobodyLived(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			planUnderJumps(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func planUnderJumps(t *testing.T, r *rand.Rand) {
	hand := clocktest.Standing(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	path := filepath.Join(t.TempDir(), "state.db")
	var s *store.Store
	var l *Loop
	open := func() {
		var err error
		if s, err = store.Open(t.Context(), path, store.WithClock(hand.Read)); err != nil {
			t.Fatal(err)
		}
		l = New(Options{Store: s, Control: control.New(control.Options{Store: s}), Provider: fake.New(fake.Config{})})
	}
	open()
	defer func() { s.Close() }()
	furnish(t, s)
	lived := time.Duration(0)
	ended := map[string]time.Duration{} // what a plan wanted to end first, and when
	for lived < time.Hour {
		switch r.IntN(6) {
		case 0:
			hand.Set(time.Duration(r.IntN(200)-100) * time.Hour)
		case 1:
			hand.Set(time.Duration(r.IntN(200)-100) * time.Minute)
		case 2:
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			open()
		}
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			v, err := l.snapshot(tx)
			if err != nil {
				return err
			}
			p := plan.Compute(v.Snapshot, tx.Now())
			var now []string
			for _, d := range p.Destroy {
				now = append(now, d.Machine)
			}
			for _, c := range p.Close {
				now = append(now, fmt.Sprint("session ", c.Session))
			}
			for _, what := range now {
				if _, ok := ended[what]; !ok {
					ended[what] = lived
				}
			}
			if len(p.Create) != 0 || !p.WakeAt.IsZero() && p.WakeAt.Sub(tx.Now()) > keptFor {
				t.Errorf("after %s, the plan creates %v and looks again in %s", lived, p.Create, p.WakeAt.Sub(tx.Now()))
			}
			return tx.SetSetting("a", fmt.Sprint(lived))
		})
		if err != nil {
			t.Fatal(err)
		}
		pass := time.Duration(r.IntN(int(often/time.Second))) * time.Second
		hand.Pass(pass)
		lived += pass
	}
	for what, limit := range map[string]time.Duration{"idle-1": idleAfter, "drained-1": drainIn, "session 1": sessionIdle, "session 2": keptFor} {
		if at, ok := ended[what]; !ok || at < limit || at > limit+often {
			t.Errorf("%s ends after %s (%v), its limit is %s", what, at, ok, limit)
		}
	}
	if len(ended) != 4 {
		t.Errorf("what ends is %v", ended)
	}
}

// furnish makes a machine that is idle and one that drains, with a session in which nothing lives and one that is
// kept on it.
func furnish(t *testing.T, s *store.Store) {
	t.Helper()
	err := s.Write(t.Context(), func(tx *store.Tx) error {
		now := tx.Now()
		drain, keep := now.Add(drainIn), now.Add(keptFor)
		size := dspool.Size{Name: "small", Resources: dspool.Resources{CPUs: 1, Memory: 1 << 30}}
		if err := tx.PutSize(size); err != nil {
			return err
		}
		for _, pool := range []string{"idle", "drained"} {
			p := dspool.Pool{Name: pool, Sizes: []string{"small"}, Max: 4, Policy: dspool.PoolPolicy{IdleAfter: dspool.Duration(idleAfter), SessionIdle: dspool.Duration(sessionIdle)}}
			if err := tx.PutPool(p); err != nil {
				return err
			}
			m := store.MachineRow{Machine: dspool.Machine{Name: pool + "-1", Pool: pool, Size: "small", Resources: size.Resources, State: dspool.Ready, Health: dspool.Healthy, ReadyAt: &now}, Seen: now}
			if pool == "drained" {
				m.Remove, m.DrainBy, m.Cordoned = dspool.Why(dspool.WhyDrainedBy, dspool.ReasonParams{By: "root"}), &drain, true
			}
			if err := tx.InsertMachine(m); err != nil {
				return err
			}
		}
		for _, user := range []string{"ann", "bob"} {
			x := store.SessionRow{Session: dspool.Session{User: user, Pool: "drained", Machine: "drained-1", State: dspool.SessionOpen, LastActive: now, Placed: &now, Opened: &now}, UID: 20000}
			if user == "bob" {
				x.UID, x.KeepUntil = 20001, &keep
			}
			if err := tx.InsertSession(&x); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
