// Package reconcile makes the world match what is wanted: it takes a snapshot, lets plan decide,
// writes the decisions down in the same transaction and drives the provider, idempotently.
// What it does not know it sweeps; on a partial view of the world it never acts.
package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/store"
)

// Options is what a Loop is made of.
type Options struct {
	Store    *store.Store
	Control  *control.Control
	Provider provider.Provider
	Boot     func(machine string) (provider.AgentBoot, error) // what a machine needs to join
	ImageDir func(key string) string
	Log      *slog.Logger

	ObserveEvery time.Duration // how often the provider is asked what is there; 2 s unless given
	ListWithin   time.Duration // how long it may take to answer; 30 s unless given
	SilentAfter  time.Duration // how long an agent may be silent, which reports every 10 s; 30 s unless given
	CreateWithin time.Duration // how long the provider may take to make a machine; 2 min unless given
}

// Loop is the one that decides and acts. Run it once.
type Loop struct {
	Options
	mu       sync.Mutex
	acting   map[string]action // machines for which the provider is at work
	pools    map[string]*flaws // pools whose machines fail
	fault    dspool.Reason     // why the provider could not be asked; none if it could
	kick     chan struct{}     // something ended that a pass should look at
	lists    chan listed       // what the provider answered
	actions  sync.WaitGroup
	begun    time.Time
	passes   int64
	served   map[int64]int64 // the pass in which a task of a job was last placed
	listing  bool            // the provider is being asked
	again    bool            // ask once more as soon as it has answered
	tidying  atomic.Bool     // history is being folded
	folded   bool            // it has been, or is
	observed bool            // the provider's list has been held against the store once
	sights   sights
}

// action is what the provider does for a machine. Each kind has its own limit, so that slow
// creations never hold up removals.
type action int

const (
	creating action = iota
	destroying
)

// flaws remembers how often making machines of a pool has failed in a row.
type flaws struct {
	failures int
	until    time.Time
	last     dspool.Reason
	at       time.Time
}

const (
	actAtOnce = 8 // machines made or destroyed at the same time
	retryPass = time.Second
	tidyEvery = time.Hour
)

// New makes a Loop.
func New(o Options) *Loop {
	if o.ObserveEvery == 0 {
		o.ObserveEvery = 2 * time.Second
	}
	if o.ListWithin == 0 {
		o.ListWithin = 30 * time.Second
	}
	if o.SilentAfter == 0 {
		o.SilentAfter = 30 * time.Second
	}
	if o.CreateWithin == 0 {
		o.CreateWithin = 2 * time.Minute
	}
	return &Loop{
		Options: o, acting: map[string]action{}, pools: map[string]*flaws{},
		begun: time.Now(), served: map[int64]int64{}, kick: make(chan struct{}, 1), lists: make(chan listed, 1), sights: newSights(),
	}
}

// Run decides and acts until ctx ends, then waits for the provider calls under way.
func (l *Loop) Run(ctx context.Context) error {
	defer l.actions.Wait()
	defer l.noteSights(context.WithoutCancel(ctx), 0)
	l.begun = time.Now()
	observe, alarm, tidy := time.NewTimer(0), time.NewTimer(time.Hour), time.NewTimer(0)
	defer observe.Stop()
	defer alarm.Stop()
	defer tidy.Stop()
	var exits <-chan string
	if w, ok := l.Provider.(interface{ Exited() <-chan string }); ok {
		exits = w.Exited()
	}
	for {
		wanted := l.Control.ReconcileWanted()
		var again time.Duration
		begun := time.Now()
		if l.observed {
			var err error
			if again, err = l.pass(ctx); err != nil && ctx.Err() == nil {
				l.Log.Error("plan and act", "err", err)
				again = retryPass
			}
			// A pass may take at most half of the time, however often it is wanted.
			if took := time.Since(begun); took > 5*time.Millisecond {
				if !pause(ctx, min(took, 200*time.Millisecond)) {
					return ctx.Err()
				}
			}
		}
		if again == 0 {
			alarm.Stop()
		} else {
			alarm.Reset(max(again-time.Since(begun), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wanted:
		case <-l.kick:
		case <-alarm.C:
		case <-exits:
			l.ask(ctx)
		case <-observe.C:
			l.ask(ctx)
			observe.Reset(l.ObserveEvery)
		case got := <-l.lists:
			l.observe(ctx, got)
			if err := l.Control.EndSilentConnections(ctx); err != nil && ctx.Err() == nil {
				l.Log.Error("end silent connections", "err", err)
			}
			if err := l.Control.EndSlowApps(ctx); err != nil && ctx.Err() == nil {
				l.Log.Error("end slow apps", "err", err)
			}
			if err := l.Control.EnsureHub(ctx); err != nil && ctx.Err() == nil {
				l.Log.Error("keep JupyterHub running", "err", err)
			}
		case <-tidy.C:
			if !l.observed { // what ended while nobody looked has its end first
				tidy.Reset(l.ObserveEvery)
				break
			}
			// At first nothing is forgotten: a clock may be wrong when the host starts. What is folded comes right again.
			if l.folded {
				l.tidy(ctx, l.Control.Tidy)
			} else {
				l.tidy(ctx, l.Control.Fold)
			}
			l.folded = true
			tidy.Reset(tidyEvery)
		}
	}
}

// tidy folds and forgets history, beside the passes: after a long time there is much of it.
func (l *Loop) tidy(ctx context.Context, fn func(context.Context) error) {
	if !l.tidying.CompareAndSwap(false, true) {
		return
	}
	l.actions.Go(func() {
		defer l.tidying.Store(false)
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			l.Log.Error("fold and forget history", "err", err)
		}
	})
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (l *Loop) kicked() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// failed notes that a machine of a pool could not be made, and holds the pool back for a
// while that doubles with every failure in a row.
func (l *Loop) failed(pool string, why dspool.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.pools[pool]
	if f == nil {
		f = &flaws{}
		l.pools[pool] = f
	}
	f.failures++
	f.last, f.at = why.Clipped(), time.Now()
	f.until = f.at.Add(min(time.Second<<min(f.failures-1, 10), 5*time.Minute))
}

// joined forgets a pool's failures once a machine that joined so long ago has done so after them.
func (l *Loop) joined(pool string, ago time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.pools[pool]; f != nil && ago < time.Since(f.at) {
		delete(l.pools, pool)
	}
}

// backoff is until when a pool is held back, on the clock of now.
func (l *Loop) backoff(pool string, now time.Time) (until time.Time, last dspool.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.pools[pool]; f != nil {
		return now.Add(time.Until(f.until)), f.last
	}
	return time.Time{}, dspool.Reason{}
}

// act runs a provider call for a machine unless one runs already.
func (l *Loop) act(name string, what action, fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, a := range l.acting {
		if a == what {
			n++
		}
	}
	if _, busy := l.acting[name]; busy || n >= actAtOnce {
		return // what ends kicks, and the next pass or list tries again
	}
	l.acting[name] = what
	l.actions.Go(func() {
		fn()
		l.mu.Lock()
		delete(l.acting, name)
		l.mu.Unlock()
		l.kicked()
	})
}

// Problems says what an administrator should look at.
func (l *Loop) Problems() []dspool.Reason {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault.IsZero() {
		return nil
	}
	return []dspool.Reason{l.fault}
}
