package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// link is the agent's side of the agent link.
type link struct {
	state linkState
	key   *ecdsa.PrivateKey
	dir   string
	log   *slog.Logger
	http  *http.Client
	cert  atomic.Pointer[tls.Certificate]
}

// callTimeout is for everything but the long poll.
const callTimeout = 15 * time.Second

func newLink(state linkState, key *ecdsa.PrivateKey, dir string, dial func(context.Context, string, string) (net.Conn, error), log *slog.Logger) (*link, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(state.CA)) {
		return nil, dspool.Errorf(dspool.Invalid, "the boot file holds no certificate authority to trust")
	}
	if !strings.HasPrefix(state.URL, "https://") {
		return nil, dspool.Errorf(dspool.Invalid, "the server's address %s is not https", dspool.Quote(state.URL))
	}
	l := &link{state: state, key: key, dir: dir, log: log}
	if dial == nil {
		dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	l.http = &http.Client{
		Transport: &http.Transport{
			DialContext: dial,
			TLSClientConfig: &tls.Config{
				RootCAs: pool, ServerName: state.ServerName, MinVersion: tls.VersionTLS13,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if c := l.cert.Load(); c != nil {
						return c, nil
					}
					return &tls.Certificate{}, nil
				},
			},
			TLSHandshakeTimeout: 10 * time.Second, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
			// One connection for the long poll and one for reports need no HTTP/2.
			Protocols: http1(),
		},
		// The server never redirects an agent; following one would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return l, nil
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

func (l *link) certificate() *tls.Certificate { return l.cert.Load() }

// use takes a certificate in PEM for the own key.
func (l *link) use(text string) error {
	der, err := x509.MarshalECPrivateKey(l.key)
	if err != nil {
		return err
	}
	c, err := tls.X509KeyPair([]byte(text), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err != nil {
		return fmt.Errorf("use the machine's certificate: %w", err)
	}
	l.cert.Store(&c)
	return nil
}

// save uses a certificate and keeps it for a later agent.
func (l *link) save(text string) error {
	if err := l.use(text); err != nil {
		return err
	}
	return writeFile(filepath.Join(l.dir, certFile), []byte(text))
}

// keepCertificate renews it when two thirds of its life are over. retrust is called when the
// server has another authority for logins.
func (l *link) keepCertificate(ctx context.Context, retrust func(context.Context, string) error) {
	for {
		leaf := l.certificate().Leaf
		at := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
		// A clock that jumped is noticed within the hour.
		for wait := time.Until(at); wait > 0; wait = time.Until(at) {
			if !sleep(ctx, min(wait, time.Hour)) {
				return
			}
		}
		var wait backoff
		for {
			err := l.renew(ctx, retrust)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
			l.log.Warn("the agent could not renew its certificate", "error", err, "expires", leaf.NotAfter)
			if !wait.pause(ctx) {
				return
			}
		}
	}
}

func (l *link) renew(ctx context.Context, retrust func(context.Context, string) error) error {
	csr, err := l.request()
	if err != nil {
		return err
	}
	var answer api.EnrolResponse
	if err := l.call(ctx, http.MethodPost, "/agent/v1/renew", api.RenewRequest{CSR: csr}, &answer); err != nil {
		return err
	}
	if answer.SSHTrust != "" && answer.SSHTrust != l.state.SSHTrust {
		l.state.SSHTrust = answer.SSHTrust
		if err := errors.Join(l.keep(), retrust(ctx, answer.SSHTrust)); err != nil {
			l.log.Error("a new authority for logins could not be taken over", "error", err)
		}
	}
	old := l.certificate().Leaf
	if err := l.save(answer.Certificate); err != nil {
		return err
	}
	l.http.CloseIdleConnections()
	if !l.certificate().Leaf.NotAfter.After(old.NotAfter) {
		return errors.New("the new certificate ends no later than the old one")
	}
	return nil
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	detail string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answered %d: %s", e.status, e.detail)
}

// permanent says that the request itself is wrong: sending it again is of no use.
func (e *statusError) permanent() bool {
	return e.status >= 400 && e.status < 500 && e.status != http.StatusRequestTimeout && e.status != http.StatusTooManyRequests
}

// aboutContent says that the server knows the machine and does not take what it sent.
func (e *statusError) aboutContent() bool {
	return e.permanent() && e.status != http.StatusUnauthorized && e.status != http.StatusForbidden
}

func (l *link) call(ctx context.Context, method, path string, in, out any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(l.state.URL, "/")+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		var p api.Problem
		if json.Unmarshal(text, &p) != nil || p.Detail == "" {
			p.Detail = dspool.Quote(string(text))
		}
		return &statusError{resp.StatusCode, p.Detail}
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// follow reads directives until ctx is done.
func (a *Agent) follow(ctx context.Context) {
	var wait backoff
	after := int64(0)
	for ctx.Err() == nil {
		var d api.Directives
		err := a.link.poll(ctx, after, &d)
		if err == nil && d.Revision < after {
			err = fmt.Errorf("the server answered with revision %d after %d", d.Revision, after)
		}
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn("the agent could not read directives", "error", err)
				wait.pause(ctx)
			}
			continue
		}
		wait = backoff{}
		a.direct(ctx, d, after == 0)
		after = d.Revision
		a.do(ctx, a.table.direct(d))
	}
}

func (l *link) poll(ctx context.Context, after int64, d *api.Directives) error {
	ctx, cancel := context.WithTimeout(ctx, pollWait+callTimeout)
	defer cancel()
	return l.call(ctx, http.MethodGet, fmt.Sprintf("/agent/v1/directives?after=%d&wait=%s", after, pollWait), nil, d)
}

// backoff is a growing pause with some chance in it, so that many agents do not come back at once.
type backoff struct{ next time.Duration }

// pause returns false when ctx is done.
func (b *backoff) pause(ctx context.Context) bool {
	b.next = min(mostBackoff, max(firstBackoff, 2*b.next))
	return sleep(ctx, b.next/2+rand.N(b.next/2))
}

// sleep returns false when ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
