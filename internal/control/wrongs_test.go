package control

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	office   = "192.0.2.1:1000"
	stranger = "198.51.100.9:1000"
)

func wrongAnswer() bool { return false }
func rightAnswer() bool { return true }

// guesser counts how many guesses are looked at.
type guesser struct {
	*wrongs
	looked atomic.Int64
}

func (g *guesser) try(user, from string, answer func() bool) bool {
	return g.guess(context.Background(), user, from, func() bool { g.looked.Add(1); return answer() })
}

func TestGuessingPasswords(t *testing.T) {
	t.Parallel()
	t.Run("many guesses at once are no more than one after the other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			var all sync.WaitGroup
			for range 500 {
				all.Go(func() {
					g.try("ada", stranger, func() bool { time.Sleep(30 * time.Millisecond); return false })
				})
			}
			all.Wait()
			if n := g.looked.Load(); n > freeWrongs {
				t.Errorf("%d of 500 guesses were looked at", n)
			}
		})
	})
	t.Run("a class that logs in at once is let in", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			var in atomic.Int64
			var all sync.WaitGroup
			for i := range 60 {
				all.Go(func() {
					if g.try(fmt.Sprintf("user%d", i), office, func() bool { time.Sleep(30 * time.Millisecond); return true }) {
						in.Add(1)
					}
				})
			}
			all.Wait()
			if in.Load() != 60 {
				t.Errorf("%d of 60 came in", in.Load())
			}
			if len(g.seen) != 0 {
				t.Errorf("%d things are remembered of people who did nothing wrong", len(g.seen))
			}
		})
	})
	t.Run("a stranger locks nobody out", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			for range 10_000 {
				g.try("ada", stranger, wrongAnswer)
			}
			began := time.Now()
			if !g.try("ada", office, rightAnswer) {
				t.Error("the right password from elsewhere is refused")
			}
			if d := time.Since(began); d > longestPause {
				t.Errorf("it took %s", d)
			}
		})
	})
	t.Run("an address that rests adds nothing to anybody's count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			for i := range 50_000 {
				g.try(fmt.Sprintf("user%d", i%20_000), stranger, wrongAnswer)
			}
			if n := len(g.seen); n > 2*freeWrongs {
				t.Errorf("%d things are remembered", n)
			}
		})
	})
	t.Run("a password of one's own buys no guesses at others'", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			wrong := 0
			for range 1000 {
				g.try("mallory", stranger, rightAnswer)
				before := g.looked.Load()
				g.try("ada", stranger, wrongAnswer)
				wrong += int(g.looked.Load() - before)
			}
			// Pauses for guesses at ada take time, in which the address rests and may guess again.
			if most := int(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))/time.Second) + freeWrongs; wrong > most || wrong > 100 {
				t.Errorf("%d guesses at another's password", wrong)
			}
		})
	})
	t.Run("the right password after a rest is right", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			for range freeWrongs {
				g.try("ada", office, wrongAnswer)
			}
			for range 20 { // impatient
				g.try("ada", office, rightAnswer)
			}
			time.Sleep(2 * time.Second)
			if !g.try("ada", office, rightAnswer) {
				t.Error("refused")
			}
		})
	})
	t.Run("names are remembered only as short as names are", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			long := make([]byte, 16<<10)
			for i := range 100 {
				long[0] = byte(i)
				g.try(string(long), fmt.Sprintf("203.0.113.%d:1", i), wrongAnswer)
			}
			for k := range g.seen {
				if len(k.user) > 32 || len(k.from) > 64 {
					t.Fatalf("%d and %d bytes are remembered", len(k.user), len(k.from))
				}
			}
		})
	})
	t.Run("an IPv6 network is one place", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := &guesser{wrongs: newWrongs()}
			for i := range 1000 {
				g.try("", fmt.Sprintf("[2001:db8::%x]:99", i+1), wrongAnswer)
			}
			if n := g.looked.Load(); n > 300 {
				t.Errorf("%d guesses", n)
			}
		})
	})
}
