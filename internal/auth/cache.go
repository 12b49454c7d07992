package auth

import (
	"crypto/tls"
	"sync"
	"time"
)

// certificateCache keeps one certificate until a third of its life is left, or until the clock says that it
// does not count yet.
type certificateCache struct {
	mu          sync.Mutex
	cert        *tls.Certificate
	from, until time.Time
}

func (c *certificateCache) get(now time.Time, make func(time.Time) (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil && !now.Before(c.from) && now.Before(c.until) {
		return c.cert, nil
	}
	cert, err := make(now)
	if err != nil {
		return nil, err
	}
	c.cert, c.from, c.until = cert, now.Add(-ahead), now.Add(serverLife*2/3)
	return cert, nil
}
