package control

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLanes(t *testing.T) {
	t.Parallel()
	t.Run("a flood of one machine has one turn at a time and keeps nobody else waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLanes()
			var inside, most, done atomic.Int64
			var all sync.WaitGroup
			for range 200 {
				all.Go(func() {
					leave, err := l.enter(t.Context(), "rogue-1")
					if err != nil {
						t.Error(err)
						return
					}
					defer leave()
					most.Store(max(most.Load(), inside.Add(1)))
					time.Sleep(time.Millisecond)
					inside.Add(-1)
					done.Add(1)
				})
			}
			synctest.Wait()
			began := time.Now()
			leave, err := l.enter(t.Context(), "good-1")
			if err != nil || time.Since(began) > 0 {
				t.Errorf("another machine waited %s, %v", time.Since(began), err)
			}
			leave()
			all.Wait()
			if most.Load() != 1 || done.Load() != 200 {
				t.Errorf("%d at once, %d in all", most.Load(), done.Load())
			}
			if len(l.lanes) != 0 {
				t.Errorf("%d lanes are kept", len(l.lanes))
			}
		})
	})
	t.Run("who gives up waiting leaves nothing behind", func(t *testing.T) {
		l := newLanes()
		leave, err := l.enter(t.Context(), "lab-1")
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.enter(gone, "lab-1"); err == nil {
			t.Error("two are in")
		}
		leave()
		if len(l.lanes) != 0 {
			t.Errorf("%d lanes are kept", len(l.lanes))
		}
	})
	t.Run("health that changes all the time is news now and then", func(t *testing.T) {
		l, now, news := newLanes(), time.Now(), 0
		for i := range 1000 {
			if l.news("rogue-1", now.Add(time.Duration(i)*100*time.Millisecond)) {
				news++
			}
		}
		if news > 20 || len(l.told) > 1 {
			t.Errorf("%d times, %d remembered", news, len(l.told))
		}
	})
}

func TestWhatAMachineReportsIsHeardToTheSecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Control{lanes: newLanes(), started: time.Now()}
		time.Sleep(time.Minute)
		if d := c.Unheard("m-1"); d != time.Minute {
			t.Errorf("a machine that this server never heard is unheard for %s", d)
		}
		c.lanes.hear("m-1")
		time.Sleep(time.Second) // the store knows it to 20 s
		if d := c.Unheard("m-1"); d != time.Second {
			t.Errorf("unheard for %s", d)
		}
		c.lanes.forget("m-1")
		if len(c.lanes.heard) != 0 {
			t.Error("a machine that is gone is kept")
		}
	})
}
