// Package clock keeps apart what the host's clock says and how long something lasted. The clock is set
// now and then: by NTP some seconds after a start, by hand, by a host that was asleep. How long things
// last is counted on another clock, which only ever goes on; see [Frame.Follow] for where the two meet.
package clock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
)

// Reading is one look at both clocks.
type Reading struct {
	Wall  time.Time     // what the host's clock says, which may be anything
	Lived time.Duration // since some moment, without the time that the host slept; it never jumps
	Boot  string        // the host's boot: Lived of another one counts from another moment; "" is not known
}

// Clock reads both clocks. It is safe for use by several goroutines.
type Clock func() Reading

// Host is the clock of this host. Lived is CLOCK_MONOTONIC, which every process of one boot shares and which
// stands while the host sleeps: nothing was alive then, and the timers of Go stand with it.
func Host() Clock {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var since unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &since) != nil {
		return Process()
	}
	return from(time.Duration(since.Nano()), strings.TrimSpace(string(id)))
}

// Process is a clock whose Lived begins now, and means nothing to another process.
func Process() Clock { return from(0, "") }

func from(lived time.Duration, boot string) Clock {
	begun := time.Now()
	return func() Reading {
		now := time.Now()
		return Reading{Wall: now.Round(0), Lived: lived + now.Sub(begun), Boot: boot}
	}
}

// Jump is how far the clock may be from what was lived before that counts: less is what reading two
// clocks costs, and what NTP corrects without setting the clock.
const Jump = time.Second

// Frame is what the clock said at a moment. While nobody sets the clock, it says how late it is at any other.
type Frame struct {
	Wall  time.Time
	Lived time.Duration
	Boot  string
}

// At is the time of a reading of the same boot: as far from another of the frame as was lived between them.
func (f Frame) At(r Reading) time.Time { return f.Wall.Add(r.Lived - f.Lived) }

// Step is how a frame ended.
type Step struct {
	By  time.Duration // how much further the clock went than was lived; negative where it went back
	Set bool          // somebody set the clock, rather than that the host was off
}

// Follow returns the frame that a reading belongs to, and how f ended: a zero Step where it goes on. Between two
// boots nobody lived: what was on the host went with it, at a moment that nobody knows.
func (f Frame) Follow(r Reading) (Frame, Step) {
	next := Frame(r)
	switch {
	case f.Wall.IsZero():
		return next, Step{}
	case f.Boot == r.Boot:
		by := r.Wall.Sub(f.At(r))
		if by.Abs() < Jump {
			return f, Step{}
		}
		return next, Step{By: by, Set: true}
	}
	by := r.Wall.Sub(f.Wall)
	if r.Boot == "" { // it may be the same
		by = min(by, 0)
	}
	return next, Step{By: by, Set: by <= -Jump}
}

// Far says how far a jump went.
func Far(by time.Duration) string {
	if by < 0 {
		return "back by " + dspool.Duration(-by.Round(time.Second)).String()
	}
	return "ahead by " + dspool.Duration(by.Round(time.Second)).String()
}
