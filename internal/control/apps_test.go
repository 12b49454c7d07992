package control

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

func TestAppsThatNeverListenAreStopped(t *testing.T) {
	t.Parallel()
	hand := clocktest.Standing(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), store.WithClock(hand.Read))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := New(Options{Store: s})
	defer c.Close()
	states := map[string]dspool.AppState{"waits": dspool.AppWaiting, "hangs": dspool.AppStarting, "runs": dspool.AppRunning, "hub": dspool.AppStarting}
	ids := map[string]int64{}
	err = s.Write(t.Context(), func(tx *store.Tx) error {
		if err := tx.InsertMachine(store.MachineRow{Machine: dspool.Machine{Name: "lab-1", Pool: "lab", State: dspool.Ready}}); err != nil {
			return err
		}
		ses := store.SessionRow{Session: dspool.Session{User: "ada", Pool: "lab", Machine: "lab-1", State: dspool.SessionOpen}, UID: 20000}
		if err := tx.InsertSession(&ses); err != nil {
			return err
		}
		for name, state := range states {
			a := store.AppRow{App: dspool.App{Session: ses.ID, Name: name, User: "ada", Pool: "lab", State: state}, UID: 20000, Restart: name == "hub"}
			if err := tx.InsertApp(&a); err != nil {
				return err
			}
			ids[name] = a.ID
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.EndSlowApps(t.Context()); err != nil {
			t.Fatal(err)
		}
		hand.Pass(startMost) // not before then
	}
	hand.Pass(time.Second)
	if err := c.EndSlowApps(t.Context()); err != nil {
		t.Fatal(err)
	}
	states["hangs"] = dspool.AppStopping
	err = s.Read(t.Context(), func(tx *store.Tx) error {
		for name, want := range states {
			a, err := tx.App(ids[name])
			if err != nil {
				return err
			}
			if a.State != want || name == "hangs" && testkit.Text(a.Reason) != "it did not listen on its port within 10m" {
				t.Errorf("%s is %s: %s", name, a.State, a.Reason)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAHubThatEndsAgainAndAgainIsMadeEverLater(t *testing.T) {
	t.Parallel()
	var h hubState
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	made, tries := now, 0
	var waits []time.Duration
	for ; tries < 10_000; tries++ {
		if h.may(now) {
			waits = append(waits, now.Sub(made))
			made = now
		}
		now = now.Add(time.Second)
	}
	if len(waits) < 8 || waits[0] != 0 || waits[1] != time.Second || waits[2] != 2*time.Second || waits[len(waits)-1] < hubWaitMost {
		t.Errorf("it is made after %v", waits)
	}
	now = now.Add(time.Hour) // it has lived
	if !h.may(now) || h.may(now) || !h.may(now.Add(time.Second)) {
		t.Error("one that has lived is not made at once")
	}
}
