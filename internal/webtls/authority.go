package webtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dspool/dspool"
)

const (
	maxNames    = 16384            // remembered at once
	maxRequests = 16               // to the server at once
	signWithin  = 30 * time.Second // one request
	askRefused  = 10 * time.Second // how long a refusal counts
	askFailed   = 2 * time.Second  // how long another error does
)

// authority has certificates of the server's own authority: one for each name, asked for when somebody first
// wants it and again when a third of its life is left.
type authority struct {
	sign  func(ctx context.Context, names []string, csr string) (string, error)
	now   func() time.Time
	log   *slog.Logger
	ctx   context.Context
	end   context.CancelFunc
	slots chan struct{}
	tasks sync.WaitGroup

	mu    sync.Mutex
	names map[string]*entry
}

// entry is what is known of a name.
type entry struct {
	cert  *tls.Certificate // nil: none yet
	asked chan struct{}    // closed when the request under way has ended; nil: none is
	err   error            // of the last request
	after time.Time        // when the next may be made
}

func newAuthority(ctx context.Context, o Options) *authority {
	a := &authority{sign: o.Sign, now: o.Now, log: o.Log, slots: make(chan struct{}, maxRequests), names: map[string]*entry{}}
	a.ctx, a.end = context.WithCancel(ctx)
	return a
}

func (a *authority) certificate(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if isChallenge(hello) {
		return nil, nil
	}
	e, asked := a.look(name)
	a.mu.Lock()
	cert := e.cert
	a.mu.Unlock()
	if cert != nil && counts(cert.Leaf, a.now()) {
		return cert, nil
	}
	if asked != nil {
		select {
		case <-asked:
		case <-hello.Context().Done():
			return nil, hello.Context().Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.cert != nil && counts(e.cert.Leaf, a.now()) {
		return e.cert, nil
	}
	return nil, e.err
}

// look finds or makes a name's entry, and sees to it that a certificate which is due is asked for.
func (a *authority) look(name string) (*entry, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	e := a.names[name]
	if e == nil {
		a.makeRoom()
		e = &entry{}
		a.names[name] = e
	}
	if e.asked == nil && !now.Before(e.after) && (e.cert == nil || due(e.cert.Leaf, now)) && a.ctx.Err() == nil {
		e.asked = make(chan struct{})
		a.tasks.Go(func() { a.ask(name, e) })
	}
	return e, e.asked
}

func due(leaf *x509.Certificate, now time.Time) bool {
	return !counts(leaf, now) || now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore)/3))
}

// counts says whether browsers take the certificate; one from a clock that was ahead they do not yet.
func counts(leaf *x509.Certificate, now time.Time) bool {
	return !now.Before(leaf.NotBefore) && now.Before(leaf.NotAfter)
}

// makeRoom forgets a name when there are too many: any, as it is only asked for again.
func (a *authority) makeRoom() {
	for name, e := range a.names {
		if len(a.names) < maxNames {
			return
		}
		if e.asked == nil {
			delete(a.names, name)
		}
	}
}

func (a *authority) ask(name string, e *entry) {
	cert, err := a.request(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	e.err = err
	switch {
	case err == nil:
		e.cert = cert
	case dspool.ErrorCode(err) == dspool.Forbidden:
		e.cert, e.after = nil, a.now().Add(askRefused) // such as of a user who was removed
	default:
		e.after = a.now().Add(askFailed)
		a.log.Warn("a web door gets no certificate", "name", name, "error", err)
	}
	close(e.asked)
	e.asked = nil
}

func (a *authority) request(name string) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(a.ctx, signWithin)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	key, csr, err := newRequest(name)
	if err != nil {
		return nil, err
	}
	chain, err := a.sign(ctx, []string{name}, csr)
	if err != nil {
		return nil, fmt.Errorf("ask for a certificate for %s: %w", name, err)
	}
	cert, err := tls.X509KeyPair([]byte(chain), key)
	if err == nil {
		err = cert.Leaf.VerifyHostname(name)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", name, err)
	}
	return &cert, nil
}

// newRequest makes a key and a certificate request, both PEM.
func newRequest(name string) (key []byte, csr string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, private)
	if err != nil {
		return nil, "", fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})), nil
}

// isChallenge says whether it is an ACME authority that asks.
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == protocolACME
}

func (a *authority) close() {
	a.end()
	a.tasks.Wait()
}
