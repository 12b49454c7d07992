package control

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/store"
)

func TestEstimatesAreOfMachinesThatAreComing(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"), store.WithClock(clocktest.Standing(now).Read))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	began, ready := now.Add(-time.Hour), now.Add(-time.Hour+20*time.Second)
	err = s.Write(t.Context(), func(tx *store.Tx) error {
		for _, m := range []dspool.Machine{
			{Name: "lab-1", Size: "large", State: dspool.Ready, Created: began, ReadyAt: &ready},
			{Name: "lab-2", Size: "small", State: dspool.Starting, Created: now.Add(-5 * time.Second)},
		} {
			m.Pool = "lab"
			if err := tx.InsertMachine(store.MachineRow{Machine: m}); err != nil {
				return err
			}
		}
		for size, want := range map[string]time.Duration{"": 15 * time.Second, "small": 15 * time.Second, "large": 0} {
			got, err := startEstimate(tx, store.SessionRow{Session: dspool.Session{Pool: "lab", Size: size}})
			if err != nil {
				return err
			}
			if time.Duration(got) != want {
				t.Errorf("who waits for size %q is told %s, want %s", size, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
