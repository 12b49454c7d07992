package control

import (
	"context"
	"sync"
	"time"
)

// lanes let each machine have one report taken at a time. Writers take turns, so a machine whose
// root floods the agent link has one turn like everybody else.
type lanes struct {
	mu    sync.Mutex
	lanes map[string]*lane
	told  map[string]time.Time // when the health of a machine was last worth an event
	heard map[string]time.Time // when a machine last reported, more exactly than the store knows
}

type lane struct {
	free  chan struct{} // holds one value while nobody is in
	users int           // who are in or wait
}

func newLanes() *lanes {
	return &lanes{lanes: map[string]*lane{}, told: map[string]time.Time{}, heard: map[string]time.Time{}}
}

// enter waits for a machine's turn; leave ends it.
func (l *lanes) enter(ctx context.Context, machine string) (leave func(), err error) {
	l.mu.Lock()
	ln := l.lanes[machine]
	if ln == nil {
		ln = &lane{free: make(chan struct{}, 1)}
		ln.free <- struct{}{}
		l.lanes[machine] = ln
	}
	ln.users++
	l.mu.Unlock()
	left := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if ln.users--; ln.users == 0 {
			delete(l.lanes, machine)
		}
	}
	select {
	case <-ln.free:
		return func() { ln.free <- struct{}{}; left() }, nil
	case <-ctx.Done():
		left()
		return nil, ctx.Err()
	}
}

// hear notes that a machine has reported.
func (l *lanes) hear(machine string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard[machine] = time.Now()
}

// forget drops what is known of a machine that is gone.
func (l *lanes) forget(machine string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.heard, machine)
}

// Unheard is how long a machine has not reported to this server.
func (c *Control) Unheard(machine string) time.Duration {
	c.lanes.mu.Lock()
	defer c.lanes.mu.Unlock()
	at, ok := c.lanes.heard[machine]
	if !ok {
		at = c.started
	}
	return time.Since(at)
}

// newsEvery is how often a machine's health may be an event: one that changes all the time is a nuisance.
const newsEvery = 5 * time.Second

// news says whether another health of a machine is worth an event now.
func (l *lanes) news(machine string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.told[machine]) < newsEvery {
		return false
	}
	for m, at := range l.told { // few machines change within seconds
		if now.Sub(at) >= newsEvery {
			delete(l.told, m)
		}
	}
	l.told[machine] = now
	return true
}
