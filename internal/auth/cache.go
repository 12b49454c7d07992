package auth

import (
	"crypto/tls"
	"sync"
	"time"
)

// certificateCache keeps one certificate until a third of its life is left.
type certificateCache struct {
	mu    sync.Mutex
	cert  *tls.Certificate
	until time.Time
}

func (c *certificateCache) get(now time.Time, make func(time.Time) (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil && now.Before(c.until) {
		return c.cert, nil
	}
	cert, err := make(now)
	if err != nil {
		return nil, err
	}
	c.cert, c.until = cert, now.Add(serverLife*2/3)
	return cert, nil
}
