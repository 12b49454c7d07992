package storetest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

var transactions = []check{
	{"the installation has a name of 8 hexadecimal digits", func(t *testing.T, s *store.Store) {
		if id := s.Installation(); !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(id) {
			t.Errorf("it is %q", id)
		}
	}},
	{"a failed write leaves nothing", func(t *testing.T, s *store.Store) {
		boom := errors.New("boom")
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			if err := tx.SetSetting("a", "1"); err != nil {
				return err
			}
			if err := tx.AddEvent(dspool.Event{Kind: "a"}); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatalf("Write returned %v, want its function's error", err)
		}
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), "")
		same(t, get(t, s, func(tx *store.Tx) ([]dspool.Event, error) { return tx.Events(store.EventFilter{}) }), []dspool.Event(nil))
	}},
	{"a write that panics or ends its goroutine leaves nothing and blocks nobody", func(t *testing.T, s *store.Store) {
		for _, die := range []func(){func() { panic("oops") }, runtime.Goexit} {
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }()
				_ = s.Write(context.Background(), func(tx *store.Tx) error {
					if err := tx.SetSetting("a", "1"); err != nil {
						return err
					}
					die()
					return nil
				})
			}()
			<-done
			same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), "")
			write(t, s, func(tx *store.Tx) error { return tx.SetSetting("b", "2") })
		}
	}},
	{"a write whose context ends on the way leaves nothing", func(t *testing.T, s *store.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Write(ctx, func(tx *store.Tx) error {
			cancel()
			return tx.SetSetting("a", "1")
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Write returned %v", err)
		}
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), "")
	}},
	{"a read cannot change anything", func(t *testing.T, s *store.Store) {
		err := s.Read(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("a", "1") })
		if err == nil {
			t.Error("it could")
		}
		err = s.Read(t.Context(), func(tx *store.Tx) error {
			_, err := tx.NextMachineName("batch")
			return err
		})
		if err == nil {
			t.Error("it could take a name")
		}
	}},
	{"a read sees one snapshot while writes go on", func(t *testing.T, s *store.Store) {
		write(t, s, func(tx *store.Tx) error { return tx.SetSetting("a", "1") })
		read(t, s, func(tx *store.Tx) error {
			before, err := tx.Setting("a")
			if err != nil {
				return err
			}
			write(t, s, func(tx *store.Tx) error { return tx.SetSetting("a", "2") })
			after, err := tx.Setting("a")
			if before != "1" || after != "1" {
				t.Errorf("read %s, then %s; want 1 both times", before, after)
			}
			return err
		})
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), "2")
	}},
	{"reads see sums whole while many writers move parts", func(t *testing.T, s *store.Store) {
		set := func(tx *store.Tx, a, b int) error {
			return errors.Join(tx.SetSetting("a", fmt.Sprint(a)), tx.SetSetting("b", fmt.Sprint(b)))
		}
		write(t, s, func(tx *store.Tx) error { return set(tx, 100, 0) })
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 25 {
					err := s.Write(t.Context(), func(tx *store.Tx) error {
						a, b, err := two(tx)
						return errors.Join(err, set(tx, a-1, b+1))
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for range 50 {
					err := s.Read(t.Context(), func(tx *store.Tx) error {
						a, b, err := two(tx)
						if a+b != 100 {
							t.Errorf("%d + %d", a, b)
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		read(t, s, func(tx *store.Tx) error {
			a, b, err := two(tx)
			if a != 0 || b != 100 {
				t.Errorf("ended at %d and %d: writes were lost", a, b)
			}
			return err
		})
	}},
	{"time stands still in a transaction, is UTC in whole microseconds, and never goes back", func(t *testing.T, s *store.Store) {
		var last time.Time
		for range 50 {
			write(t, s, func(tx *store.Tx) error {
				now := tx.Now()
				if now.Before(last) || now != tx.Now() || now.Location() != time.UTC || now.Truncate(time.Microsecond) != now {
					t.Errorf("now is %v after %v", now, last)
				}
				last = now
				return nil
			})
		}
	}},
	{"a batch that failed half-way is not committed, even if nobody minds", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error {
			_, err := tx.InsertAttempts([]store.AttemptRow{attempt(1, 0, m.Name), attempt(1, 1, m.Name), attempt(1, 1, m.Name)})
			if err == nil {
				t.Error("one task was placed twice")
			}
			_ = tx.SetSetting("a", "1")
			return nil
		})
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), "")
		same(t, place(t, s, 1, m.Name, 0)[0].ID, int64(1))
	}},
	{"a job refused for its key leaves the transaction usable", func(t *testing.T, s *store.Store) {
		j := newJob(t, "ann", "batch")
		j.Key = "k"
		insertJob(t, s, j)
		write(t, s, func(tx *store.Tx) error {
			again := j
			if err := tx.InsertJob(&again); dspool.ErrorCode(err) != dspool.Conflict {
				t.Errorf("error is %v", err)
			}
			_, found, err := tx.JobByKey("ann", "k")
			if !found {
				t.Error("not found")
			}
			return errors.Join(err, tx.SetSetting("a", "1"))
		})
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), "1")
	}},
	{"a closed store says so, and closes again", func(t *testing.T, s *store.Store) {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		fn := func(*store.Tx) error { return nil }
		for _, err := range []error{s.Write(t.Context(), fn), s.Read(t.Context(), fn)} {
			if dspool.ErrorCode(err) != dspool.Unavailable {
				t.Errorf("error is %v", err)
			}
		}
	}},
	{"settings keep their latest value, and absent ones are empty", func(t *testing.T, s *store.Store) {
		for _, v := range []string{"1", "2", "2", "a\x00b\n", "ü", ""} {
			write(t, s, func(tx *store.Tx) error { return tx.SetSetting("a", v) })
			same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("a") }), v)
		}
		same(t, get(t, s, func(tx *store.Tx) (string, error) { return tx.Setting("b") }), "")
	}},
}

func two(tx *store.Tx) (a, b int, err error) {
	for name, n := range map[string]*int{"a": &a, "b": &b} {
		v, err := tx.Setting(name)
		if err != nil {
			return 0, 0, err
		}
		if _, err := fmt.Sscan(v, n); err != nil {
			return 0, 0, err
		}
	}
	return a, b, nil
}
