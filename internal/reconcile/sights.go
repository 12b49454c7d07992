package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/store"
)

// noteSightsEvery is how exactly a server that is killed leaves behind when machines were last there: one
// transaction for all of them.
const noteSightsEvery = 5 * time.Second

// moment is a time by two clocks: the store's, which may be set, and this process's, which tells distances.
type moment struct{ stores, ours time.Time }

// sights are when machines were last seen to be there. A machine that is found gone, and all that was
// on it, ended then: nobody pays for the time after.
type sights struct {
	mu    sync.Mutex
	last  map[string]time.Time
	gone  map[string]time.Time // of those that the latest list does not show alive
	noted time.Time
}

func newSights() sights { return sights{last: map[string]time.Time{}, gone: map[string]time.Time{}} }

// look takes in what a list that was asked for at a time says of a machine, whose row is of now.
func (s *sights) look(m store.MachineRow, alive bool, at time.Time, now moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if alive {
		s.last[m.Name] = at
		delete(s.gone, m.Name)
		return
	}
	if _, known := s.gone[m.Name]; !known {
		s.gone[m.Name] = later(s.last[m.Name], now.ours.Add(-max(0, now.stores.Sub(control.LastSight(m)))))
	}
}

// end is when a machine that is gone was last seen; zero if it is there.
func (s *sights) end(name string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone[name]
}

// forget drops machines that have ended.
func (s *sights) forget(live map[string]store.MachineRow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range []map[string]time.Time{s.last, s.gone} {
		for name := range m {
			if _, ok := live[name]; !ok {
				delete(m, name)
			}
		}
	}
}

// since returns the machines that are there, and when the latest list was asked for.
func (s *sights) since() (names []string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.last {
		if _, gone := s.gone[name]; gone {
			continue
		}
		names, at = append(names, name), later(at, t)
	}
	return names, at
}

// noteSights writes down which machines are there, unless that was done lately.
func (l *Loop) noteSights(ctx context.Context, every time.Duration) {
	names, at := l.sights.since()
	if len(names) == 0 || time.Since(l.sights.noted) < every {
		return
	}
	l.sights.noted = time.Now()
	err := l.Store.Write(ctx, func(tx *store.Tx) error { return tx.Sight(names, tx.Now().Add(-time.Since(at))) })
	if err != nil && ctx.Err() == nil {
		l.Log.Error("note which machines are there", "err", err)
	}
}
