// Package webtls gives web doors their certificates: of the server's own authority, from files, or by ACME
// (RFC 8555) from a public one.
//
// Only three sorts of name are ever certified: the portal's, DOMAIN; JupyterHub's, hub.DOMAIN; and
// USER.hub.DOMAIN of a user whom the server knows. Whoever asks for another is refused in the handshake,
// and nobody is asked about it. Every name has a certificate of its own, so that browsers never
// take a connection to one origin for another's; only files may hold a wildcard.
package webtls

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// Options of New.
type Options struct {
	// Sign asks the server for a certificate of its own authority: names and a PEM certificate request in,
	// the PEM chain out. Its error is Forbidden for names that are not the domain's or a user's.
	Sign func(ctx context.Context, names []string, csr string) (string, error)
	// Allow says whether USER.hub.DOMAIN may have a certificate from ACME; Forbidden if not. What Sign
	// signs may, unless it is given.
	Allow func(ctx context.Context, name string) error
	Dir   string           // for keys and certificates got by ACME; made with mode 0700
	Now   func() time.Time // time.Now unless given; ACME goes by the host's clock
	Log   *slog.Logger
}

// Source gives certificates to TLS servers. It is safe for concurrent use.
type Source struct {
	o      Options
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	setMu  sync.Mutex // held while the setting changes

	mu      sync.RWMutex
	domain  string
	setting setting
	from    issuer // nil until Set
}

// issuer is where certificates come from.
type issuer interface {
	// certificate returns that of an allowed name, at once or when it has come; nil for a name that has none.
	certificate(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error)
	close()
}

// setting is what an issuer follows from.
type setting struct {
	domain string
	tls    api.WebTLS
	doors  string // that speak TLS
}

// New returns a source that has no certificates before Set.
func New(o Options) *Source {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = cmp.Or(o.Log, slog.Default())
	s := &Source{o: o}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Set says what certificates to show from now on, at which of the doors. When it fails, as for
// files that cannot be read, everything stays as it was.
func (s *Source) Set(w api.Web, doors []dspool.Door) error {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	var listen []string
	for _, d := range doors {
		if d.Protocol == dspool.ProtocolWeb && !w.Plain(d.Listen) {
			listen = append(listen, d.Listen)
		}
	}
	slices.Sort(listen)
	wanted := setting{domain: strings.ToLower(w.Domain), tls: w.TLS, doors: strings.Join(listen, " ")}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	same := s.from != nil && s.setting == wanted
	s.mu.RUnlock()
	if same {
		return nil
	}
	from, err := s.open(wanted, listen)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old := s.from
	s.domain, s.setting, s.from = wanted.domain, wanted, from
	s.mu.Unlock()
	if old != nil {
		old.close()
	}
	return nil
}

func (s *Source) open(w setting, doors []string) (issuer, error) {
	switch {
	case w.tls.Certificate != "":
		return openFiles(w.tls.Certificate, w.tls.Key, s.o.Now, s.o.Log)
	case w.tls.ACME && len(doors) > 0:
		return openACME(s.ctx, w, doors, s.o)
	}
	return newAuthority(s.ctx, s.o), nil
}

// protocolACME is what an authority offers alone, when it looks for the answer to its challenge (RFC 8737).
const protocolACME = "acme-tls/1"

// Config is for the listeners of web doors. It follows Set.
func (s *Source) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1", protocolACME},
		GetCertificate: s.certificate,
	}
}

// certificate finds that of the name which a browser asks for; of the domain's where it asks for none, as when
// somebody opens an address.
func (s *Source) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.RLock()
	domain, from := s.domain, s.from
	s.mu.RUnlock()
	name := strings.ToLower(cmp.Or(hello.ServerName, domain))
	if from == nil || !ours(name, domain) {
		// Neither certificate nor error makes the alert "unrecognized name" (RFC 6066, section 3).
		return nil, nil
	}
	cert, err := from.certificate(hello, name)
	switch {
	case dspool.ErrorCode(err) == dspool.Forbidden:
		return nil, nil
	case err != nil:
		s.o.Log.Debug("no certificate for a browser", "name", name, "error", err)
		return nil, err
	}
	return cert, nil
}

// ours says whether a name has the form of one that may have a certificate.
func ours(name, domain string) bool {
	if name == domain || name == "hub."+domain {
		return true
	}
	user, ok := strings.CutSuffix(name, ".hub."+domain)
	return ok && dspool.CheckName("user", user) == nil
}

// Close ends what is under way. Listeners with Config get no certificates any more.
func (s *Source) Close() {
	s.setMu.Lock()
	defer s.setMu.Unlock()
	s.cancel()
	s.mu.Lock()
	from := s.from
	s.from = nil
	s.mu.Unlock()
	if from != nil {
		from.close()
	}
}
