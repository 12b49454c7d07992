package storetest

import (
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

func eventIDs(t *testing.T, s *store.Store, f store.EventFilter) (out []int64) {
	t.Helper()
	for _, e := range get(t, s, func(tx *store.Tx) ([]dspool.Event, error) { return tx.Events(f) }) {
		out = append(out, e.ID)
	}
	return out
}

var events = []check{
	{"an event comes back whole, with its number and its transaction's time", func(t *testing.T, s *store.Store) {
		e := dspool.Event{ID: 99, Time: at(50), Actor: "planner", Kind: "machine.created", Pool: "batch", Machine: "batch-1", Job: 7, User: "ann", Message: "made", Reason: testkit.Stated("job 7 waits")}
		write(t, s, func(tx *store.Tx) error {
			if err := tx.AddEvent(e); err != nil {
				return err
			}
			e.ID, e.Time = 1, tx.Now()
			return tx.AddEvent(dspool.Event{Kind: "server.started"})
		})
		bare := dspool.Event{ID: 2, Time: e.Time, Kind: "server.started"}
		same(t, get(t, s, func(tx *store.Tx) ([]dspool.Event, error) { return tx.Events(store.EventFilter{}) }), []dspool.Event{e, bare})
	}},
	{"events are found by what they are about, and another's are not shown", func(t *testing.T, s *store.Store) {
		write(t, s, func(tx *store.Tx) error {
			for _, e := range []dspool.Event{
				{Pool: "a", Machine: "a-1"}, {Pool: "a", Job: 1, User: "ann"}, {Pool: "b", Job: 2, User: "bob"}, {}, {Machine: "a-1", Job: 1, User: "ann"},
			} {
				if err := tx.AddEvent(e); err != nil {
					return err
				}
			}
			return nil
		})
		for _, c := range []struct {
			f    store.EventFilter
			want []int64
		}{
			{store.EventFilter{}, []int64{1, 2, 3, 4, 5}},
			{store.EventFilter{After: 2, Limit: 2}, []int64{3, 4}},
			{store.EventFilter{Latest: true, Limit: 2}, []int64{4, 5}},
			{store.EventFilter{After: 4, Latest: true, Limit: 3}, []int64{5}},
			{store.EventFilter{Pool: "a"}, []int64{1, 2}},
			{store.EventFilter{Machine: "a-1"}, []int64{1, 5}},
			{store.EventFilter{Job: 1}, []int64{2, 5}},
			{store.EventFilter{User: "ann"}, []int64{1, 2, 4, 5}},
			{store.EventFilter{User: "bob"}, []int64{1, 3, 4}},
			{store.EventFilter{User: "bob", Job: 1}, nil},
			{store.EventFilter{User: "ann", Machine: "a-1", Latest: true, Limit: 1}, []int64{5}},
		} {
			same(t, eventIDs(t, s, c.f), c.want)
		}
	}},
	{"pruning deletes what is older, and no number is given again", func(t *testing.T, s *store.Store) {
		var times []time.Time
		add := func() {
			last := time.Time{}
			if len(times) > 0 {
				last = times[len(times)-1]
			}
			for {
				var now time.Time
				write(t, s, func(tx *store.Tx) error {
					if now = tx.Now(); !now.After(last) {
						return nil // the clock has not moved on
					}
					return tx.AddEvent(dspool.Event{Kind: "a"})
				})
				if now.After(last) {
					times = append(times, now)
					return
				}
			}
		}
		prune := func(before time.Time) (n int64) {
			write(t, s, func(tx *store.Tx) (err error) {
				n, err = tx.PruneEvents(before, 10)
				return err
			})
			return n
		}
		for range 4 {
			add()
		}
		same(t, prune(times[2]), int64(2))
		same(t, eventIDs(t, s, store.EventFilter{}), []int64{3, 4})
		same(t, prune(times[2]), int64(0))
		same(t, prune(times[3].Add(time.Second)), int64(2))
		add()
		same(t, eventIDs(t, s, store.EventFilter{}), []int64{5})
	}},
}
