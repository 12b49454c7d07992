// Package clocktest has a clock whose hands a test moves.
package clocktest

import (
	"strconv"
	"sync"
	"time"

	"github.com/dspool/dspool/internal/clock"
)

// Clock is a host's clock. Its own time passes as that of the test's process where it was made by
// [Running], else only by [Clock.Pass].
type Clock struct {
	mu    sync.Mutex
	run   clock.Clock // nil: it stands
	wall  time.Time   // where it stands
	off   time.Duration
	lived time.Duration
	boots int
}

// Standing is a clock that stands at a time.
func Standing(at time.Time) *Clock { return &Clock{wall: at} }

// Running is a clock that goes, at first rightly.
func Running() *Clock { return &Clock{run: clock.Process()} }

// Read is the [clock.Clock].
func (c *Clock) Read() clock.Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := clock.Reading{Wall: c.wall, Boot: "boot " + strconv.Itoa(c.boots)}
	if c.run != nil {
		now := c.run()
		r.Wall, r.Lived = now.Wall, now.Lived
	}
	r.Wall, r.Lived = r.Wall.Add(c.off), r.Lived+c.lived
	return r
}

// Pass lets time pass.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.lived = c.off+d, c.lived+d
}

// Set sets the clock by so much ahead.
func (c *Clock) Set(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += by
}

// Boot is a host that was off and has been on again for as long as lived says. The clock is ahead of where it
// was by so much.
func (c *Clock) Boot(by, lived time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boots++
	c.off += by
	c.lived = lived
	if c.run != nil {
		c.lived -= c.run().Lived
	}
}
