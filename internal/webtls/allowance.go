package webtls

import (
	"context"
	"sync"
	"time"

	"github.com/dspool/dspool"
)

// allowFor is how long a name that was allowed is not asked about again.
const allowFor = 10 * time.Minute

// allowance remembers what the server says of users' names.
type allowance struct {
	ask func(ctx context.Context, name string) error
	now func() time.Time

	mu    sync.Mutex
	known map[string]verdict
}

type verdict struct {
	err   error
	until time.Time
}

func newAllowance(o Options) *allowance {
	a := &allowance{ask: o.Allow, now: o.Now, known: map[string]verdict{}}
	if a.ask == nil {
		a.ask = func(ctx context.Context, name string) error {
			_, csr, err := newRequest(name)
			if err == nil {
				_, err = o.Sign(ctx, []string{name}, csr)
			}
			return err
		}
	}
	return a
}

// check is nil for a name that may have a certificate. While the server is away, a name that was
// allowed still is: its certificate may be due.
func (a *allowance) check(ctx context.Context, name string) error {
	now := a.now()
	a.mu.Lock()
	before, known := a.known[name]
	a.mu.Unlock()
	if known && now.Before(before.until) {
		return before.err
	}
	err := a.ask(ctx, name)
	v := verdict{err, now.Add(allowFor)}
	switch {
	case dspool.ErrorCode(err) == dspool.Forbidden:
		v.until = now.Add(askRefused)
	case err != nil && known && before.err == nil:
		return nil
	case err != nil:
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxNames {
		clear(a.known)
	}
	a.known[name] = v
	return err
}
