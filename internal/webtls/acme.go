package webtls

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dspool/dspool"
)

const (
	retryFirst  = 5 * time.Minute // after a failure; an authority allows few in an hour
	retryMost   = time.Hour
	keepExpired = 14 * 24 * time.Hour
)

// acme has certificates of a public authority: the portal's and the hub's are got at once, a user's when
// somebody first comes to it. They lie in a folder, and are renewed while the old ones are shown: when the
// authority says (RFC 9773), else when a third of their life is left.
type acme struct {
	domain string
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer
	cache  *certmagic.Cache
	users  *allowance
	log    *slog.Logger
	ctx    context.Context
	end    context.CancelFunc
	tasks  sync.WaitGroup

	mu    sync.Mutex
	fails map[string]failure
}

// failure is what the last tries for a name came to.
type failure struct {
	err   error
	wait  time.Duration
	again time.Time
}

func openACME(ctx context.Context, w setting, doors []string, o Options) (*acme, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of certificates: %w", err)
	}
	if err := os.Chmod(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of certificates: %w", err)
	}
	a := &acme{domain: w.domain, users: newAllowance(o), log: o.Log, fails: map[string]failure{}}
	logger := zapTo(o.Log)
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		Capacity:         maxNames,
		Logger:           logger,
	})
	storage := &certmagic.FileStorage{Path: o.Dir}
	a.config = certmagic.New(a.cache, certmagic.Config{
		Storage:           storage,
		OnDemand:          &certmagic.OnDemandConfig{DecisionFunc: a.decide},
		DefaultServerName: w.domain,
		OnEvent:           a.event,
		ShouldEmitFunc:    func(event string) bool { return strings.HasPrefix(event, "cert_") },
		Logger:            logger,
	})
	template := certmagic.ACMEIssuer{
		CA: cmp.Or(w.tls.Directory, certmagic.LetsEncryptProductionCA), Email: w.tls.Email,
		Agreed: true, // whoever writes acme into the configuration agrees
		Logger: logger,
	}
	if err := challengeAt(&template, doors); err != nil {
		a.cache.Stop()
		return nil, err
	}
	if w.tls.CA != "" {
		pem, err := os.ReadFile(w.tls.CA)
		template.TrustedRoots = x509.NewCertPool()
		if err == nil && !template.TrustedRoots.AppendCertsFromPEM(pem) {
			err = errors.New("it holds no certificate")
		}
		if err != nil {
			a.cache.Stop()
			return nil, dspool.Errorf(dspool.Invalid, "authorities of the ACME directory, %s: %w", w.tls.CA, err)
		}
	}
	a.issuer = certmagic.NewACMEIssuer(a.config, template)
	a.config.Issuers = []certmagic.Issuer{a.issuer}
	a.ctx, a.end = context.WithCancel(ctx)
	for _, name := range []string{w.domain, "hub." + w.domain} {
		a.tasks.Go(func() { a.obtain(name) })
	}
	a.tasks.Go(func() {
		err := certmagic.CleanStorage(a.ctx, storage, certmagic.CleanStorageOptions{Logger: logger, ExpiredCerts: true, ExpiredCertGracePeriod: keepExpired, OCSPStaples: true})
		if err != nil && a.ctx.Err() == nil {
			a.log.Warn("old certificates of web doors are not cleared away", "error", err)
		}
	})
	return a, nil
}

// challengeAt says which doors answer the authority's challenges, so that nothing listens beside them: the
// door at the standard port, else the first, for a port that something before it forwards.
func challengeAt(t *certmagic.ACMEIssuer, doors []string) error {
	t.DisableHTTPChallenge = true
	for i, door := range doors {
		host, port, err := net.SplitHostPort(door)
		n, perr := strconv.Atoi(port)
		if err := errors.Join(err, perr); err != nil {
			return fmt.Errorf("web door %s: %w", door, err)
		}
		if i == 0 || n == certmagic.TLSALPNChallengePort {
			t.ListenHost, t.AltTLSALPNPort = host, n
		}
		if n == certmagic.HTTPChallengePort {
			t.DisableHTTPChallenge = false
		}
	}
	return nil
}

// decide is asked before a certificate is loaded or got for a name of the right form.
func (a *acme) decide(ctx context.Context, name string) error {
	switch {
	case !ours(name, a.domain):
		return dspool.Errorf(dspool.Forbidden, "%s is not this pool's", name)
	case name == a.domain || name == "hub."+a.domain:
		return nil
	}
	return a.users.check(ctx, name)
}

// giveUp is the key of a function in a context that ends the tries for one name.
type giveUp struct{}

// event keeps names that failed from being asked for again at once: an authority soon refuses everything of
// somebody who does that.
func (a *acme) event(ctx context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	a.mu.Lock()
	defer a.mu.Unlock()
	f, failed := a.fails[name]
	switch event {
	case "cert_obtaining":
		if failed && time.Now().Before(f.again) {
			return certmagic.ErrNoRetry{Err: fmt.Errorf("wait until %s: %w", f.again.Format(time.TimeOnly), f.err)}
		}
	case "cert_obtained":
		delete(a.fails, name)
	case "cert_failed":
		f.err, _ = data["error"].(error)
		f.wait = min(max(2*f.wait, retryFirst), retryMost)
		f.again = time.Now().Add(f.wait)
		a.fails[name] = f
		a.log.Error("no certificate by ACME; the authority must reach a web door at port 443, or 80, of the name", "name", name, "error", f.err, "again", f.again)
		if end, ok := ctx.Value(giveUp{}).(context.CancelFunc); ok {
			end() // the library itself would try again sooner
		}
	}
	return nil
}

// obtain gets a certificate that is needed anyway before anybody comes, however long that takes.
func (a *acme) obtain(name string) {
	for {
		ctx, end := context.WithCancel(a.ctx)
		err := a.config.ObtainCertAsync(context.WithValue(ctx, giveUp{}, end), name)
		end()
		if err == nil || a.ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		f, failed := a.fails[name]
		a.mu.Unlock()
		wait := retryFirst
		if failed {
			wait = time.Until(f.again) + time.Second
		} else {
			a.log.Error("no certificate by ACME", "name", name, "error", err)
		}
		select {
		case <-time.After(wait):
		case <-a.ctx.Done():
			return
		}
	}
}

func (a *acme) certificate(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if !isChallenge(hello) {
		if err := a.decide(hello.Context(), name); err != nil {
			return nil, err
		}
	}
	type result struct {
		cert *tls.Certificate
		err  error
	}
	done := make(chan result, 1)
	// What has begun goes on when this browser gives up: the next one finds the certificate.
	ctx, end := context.WithCancel(context.WithoutCancel(hello.Context()))
	ctx = context.WithValue(ctx, giveUp{}, end)
	stop := context.AfterFunc(a.ctx, end)
	go func() {
		defer end()
		defer stop()
		cert, err := a.config.GetCertificateWithContext(ctx, hello)
		done <- result{cert, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			a.mu.Lock()
			_, said := a.fails[name]
			a.mu.Unlock()
			if !said && !isChallenge(hello) {
				a.log.Warn("a web door gets no certificate", "name", name, "error", r.err)
			}
			return nil, r.err
		}
		return r.cert, nil
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	}
}

// answer gives the answer to a challenge by HTTP, and says whether that was one.
func (a *acme) answer(w http.ResponseWriter, r *http.Request) bool {
	return a.issuer.HandleHTTPChallenge(w, r)
}

func (a *acme) close() {
	a.end()
	a.tasks.Wait()
	a.cache.Stop()
}
