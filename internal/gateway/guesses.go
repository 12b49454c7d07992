package gateway

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	refusalTime    = 700 * time.Millisecond // a wrong password is answered after this
	checksAtOnce   = 4                      // each takes the server a moment of hard work
	freeGuesses    = 3
	longestPause   = 8 * time.Second
	userPause      = 2 * time.Second // at most, for guesses at one user from elsewhere: nobody is locked out
	guessMemory    = 15 * time.Minute
	mostRemembered = 10_000
)

// guesses slows wrong passwords down: by where they come from, and a little by whom they are for.
type guesses struct {
	checks chan struct{}
	mu     sync.Mutex
	seen   map[guessKey]guess
	now    func() time.Time
}

// guessKey is a source or a user.
type guessKey struct {
	source netip.Prefix
	user   string
}

type guess struct {
	wrong int
	last  time.Time
}

func newGuesses() *guesses {
	return &guesses{checks: make(chan struct{}, checksAtOnce), seen: map[guessKey]guess{}, now: time.Now}
}

func (g *guesses) pause(from netip.Prefix, user string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	of := func(k guessKey, most time.Duration) time.Duration {
		n, ok := g.seen[k]
		if over := n.wrong - freeGuesses; ok && over >= 0 && g.now().Sub(n.last) < guessMemory {
			return min(250*time.Millisecond<<min(over, 10), most)
		}
		return 0
	}
	return max(of(guessKey{source: from}, longestPause), of(guessKey{user: user}, userPause))
}

// wait holds a guess back; false means that ctx ended.
func (g *guesses) wait(ctx context.Context, from netip.Prefix, user string) bool {
	d := g.pause(from, user)
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// turn waits until a password may be checked.
func (g *guesses) turn(ctx context.Context) (release func(), ok bool) {
	select {
	case g.checks <- struct{}{}:
		return func() { <-g.checks }, true
	case <-ctx.Done():
		return nil, false
	}
}

func (g *guesses) wrong(from netip.Prefix, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	if len(g.seen) >= mostRemembered {
		for k, n := range g.seen {
			if now.Sub(n.last) > guessMemory {
				delete(g.seen, k)
			}
		}
		for k := range g.seen { // still too many: any will do
			if len(g.seen) < mostRemembered {
				break
			}
			delete(g.seen, k)
		}
	}
	for _, k := range [...]guessKey{{source: from}, {user: user}} {
		n := g.seen[k]
		if now.Sub(n.last) > guessMemory {
			n.wrong = 0
		}
		g.seen[k] = guess{wrong: n.wrong + 1, last: now}
	}
}

// right forgives a user's wrong guesses, but not where they came from: a password of one's own must
// not buy guesses at others'.
func (g *guesses) right(user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.seen, guessKey{user: user})
}
