package control

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/dspool/dspool"
)

// wrongs slows down guessing at passwords. After a few wrong ones an address has to rest, for a time
// that doubles: nothing from there is looked at meanwhile. Guesses at one user from anywhere become
// slow, and no more than that, so that nobody can lock somebody else out. Keys and certificates are
// never held back.
type wrongs struct {
	mu      sync.Mutex
	seen    map[wrongKey]wrongCount
	checked chan struct{} // closed and replaced when a guess has been looked at
	now     func() time.Time
}

// wrongKey is a user or an address.
type wrongKey struct{ user, from string }

type wrongCount struct {
	n       int // wrong ones
	pending int // that are being looked at
	until   time.Time
	last    time.Time
}

const (
	freeWrongs   = 5
	wrongMemory  = 15 * time.Minute
	longestRest  = 5 * time.Minute
	longestPause = 2 * time.Second
	rememberMost = 10_000
)

func newWrongs() *wrongs {
	return &wrongs{seen: map[wrongKey]wrongCount{}, checked: make(chan struct{}), now: time.Now}
}

// guess says whether right is, once it may be asked.
func (w *wrongs) guess(ctx context.Context, user, from string, right func() bool) bool {
	if dspool.CheckUserName(user) != nil {
		user = "" // nobody's, and as long as somebody likes
	}
	u, f := wrongKey{user: user}, wrongKey{from: place(from)}
	if !w.wait(ctx, w.pause(u)) || !w.begin(ctx, f) {
		return false
	}
	ok := false
	defer func() { w.end(u, f, ok) }()
	ok = right()
	return ok
}

// place is what counts as one address: of IPv6, a network of one customer.
func place(from string) string {
	host, _, err := net.SplitHostPort(from)
	if err != nil {
		host = from
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host[:min(len(host), 64)]
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// pause is how long a guess at a user has to wait.
func (w *wrongs) pause(u wrongKey) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.seen[u]
	if over := c.n - freeWrongs; over >= 0 && w.now().Sub(c.last) < wrongMemory {
		return min(250*time.Millisecond<<min(over, 10), longestPause)
	}
	return 0
}

func (w *wrongs) wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
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

// begin waits for a turn of an address; false means that it has to rest. No more guesses are looked
// at together than are free: many at once count like one after the other.
func (w *wrongs) begin(ctx context.Context, f wrongKey) bool {
	for {
		w.mu.Lock()
		c, now := w.seen[f], w.now()
		if now.Before(c.until) {
			w.mu.Unlock()
			return false
		}
		if now.Sub(c.last) > wrongMemory {
			c.n = 0
		}
		if c.pending < max(1, freeWrongs-c.n) {
			c.pending++
			w.seen[f] = c
			w.mu.Unlock()
			return true
		}
		checked := w.checked
		w.mu.Unlock()
		select {
		case <-checked:
		case <-ctx.Done():
			return false
		}
	}
}

// end counts a guess. A right one forgives the user's wrong ones, but not those of its address: a
// password of one's own must not buy guesses at others'.
func (w *wrongs) end(u, f wrongKey, right bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	w.forget(now)
	c := w.seen[f]
	c.pending--
	if right {
		delete(w.seen, u)
	} else {
		c = c.wrong(now)
		if over := c.n - freeWrongs; over >= 0 {
			c.until = now.Add(min(time.Second<<min(over, 10), longestRest))
		}
		w.seen[u] = w.seen[u].wrong(now)
	}
	if w.seen[f] = c; c.n == 0 && c.pending == 0 {
		delete(w.seen, f)
	}
	close(w.checked)
	w.checked = make(chan struct{})
}

func (c wrongCount) wrong(now time.Time) wrongCount {
	if now.Sub(c.last) > wrongMemory {
		c.n = 0
	}
	c.n, c.last = c.n+1, now
	return c
}

// forget makes room: first what is old, then whatever comes.
func (w *wrongs) forget(now time.Time) {
	if len(w.seen) <= rememberMost {
		return
	}
	for k, c := range w.seen {
		if c.pending == 0 && (now.Sub(c.last) > wrongMemory || len(w.seen) > 2*rememberMost) {
			delete(w.seen, k)
		}
	}
}
