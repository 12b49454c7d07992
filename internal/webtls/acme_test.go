package webtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webtls"
)

// pebble is Let's Encrypt's own test authority: it validates for real, with every name at one address.
type pebble struct {
	orders    atomic.Int64 // certificates asked for
	directory string
	trust     string // PEM file for the directory's own certificate
	roots     *x509.CertPool
}

type pebbleOptions struct {
	address           string // of every name
	httpPort, tlsPort int    // where it looks for the answers to its challenges, instead of 80 and 443
	life              time.Duration
}

func newPebble(t *testing.T, o pebbleOptions) *pebble {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	if testing.Verbose() {
		quiet = log.New(testLog{t}, "pebble ", 0)
	}
	store := db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default", ValidityPeriod: uint64(o.life / time.Second)}})
	validator := va.New(quiet, o.httpPort, o.tlsPort, false, nameServer(t, o.address), store)
	front := wfe.New(quiet, store, validator, authority, []string{"pebble.test"}, false, false, 1, 1)
	p := &pebble{}
	handler := front.Handler()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/order-plz") {
			p.orders.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.directory = server.URL + wfe.DirectoryPath
	p.trust = filepath.Join(t.TempDir(), "pebble.pem")
	must(t, os.WriteFile(p.trust, []byte(pemOf(server.Certificate().Raw)), 0o644))
	p.roots = pool(authority.GetRootCert(0).Cert)
	return p
}

var domains atomic.Int64

// newDomain is a name that no other test uses: the library's waiting for one name is of the whole process.
func newDomain(what string) string { return fmt.Sprintf("%s%d.test", what, domains.Add(1)) }

// issuedBy is now, on a clock that is a little ahead: pebble's certificates begin with the next full second.
func issuedBy() time.Time { return time.Now().Add(2 * time.Second) }

func (p *pebble) web(domain string) api.Web {
	return api.Web{Domain: domain, TLS: api.WebTLS{ACME: true, Email: "ops@example.org", Directory: p.directory, CA: p.trust}}
}

// nameServer gives every name the address, over TCP as pebble asks.
func nameServer(t *testing.T, address string) string {
	t.Helper()
	l := listen(t)
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(address)})
		}
		w.WriteMsg(r)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	return n
}

func TestACME(t *testing.T) {
	t.Parallel()
	domain := newDomain("acme")
	s := newServer(t, domain, "ada", "bob")
	dir := filepath.Join(t.TempDir(), "gateway", "acme")
	options := webtls.Options{Sign: s.sign, Allow: s.allow, Dir: dir}
	d := openDoor(t, "127.0.0.1:0", options)
	p := newPebble(t, pebbleOptions{address: "127.0.0.1", tlsPort: portOf(t, d.addr), httpPort: 1})
	must(t, d.source.Set(p.web(domain), d.doors))

	t.Run("portal and hub have certificates before anybody comes", func(t *testing.T) {
		eventually(t, "two orders", func() bool { return p.orders.Load() == 2 })
		for _, name := range []string{domain, "hub." + domain} {
			cert, err := d.visit(name, p.roots, issuedBy())
			if err != nil || cert.VerifyHostname(name) != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := p.orders.Load(); n != 2 {
			t.Errorf("%d orders", n)
		}
	})
	t.Run("a user's comes with the first of many browsers", func(t *testing.T) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := d.visit("ada.hub."+domain, p.roots, issuedBy()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := p.orders.Load(); n != 3 {
			t.Errorf("%d orders", n)
		}
	})
	t.Run("an address is the portal's", func(t *testing.T) {
		cert, err := d.shake(&tls.Config{InsecureSkipVerify: true})
		if err != nil || cert.VerifyHostname(domain) != nil {
			t.Error(err)
		}
	})
	t.Run("nobody is asked about a foreign name", func(t *testing.T) {
		before := s.askedAtAll()
		for _, name := range []string{"evil.test", "www." + domain, domain + ".evil.test", "x.ada.hub." + domain, "*.hub." + domain} {
			d.wantRefused(name)
		}
		if s.askedAtAll() != before || p.orders.Load() != 3 {
			t.Error("somebody was asked")
		}
	})
	t.Run("the authority is not asked about somebody whom the server does not know", func(t *testing.T) {
		d.wantRefused("eve.hub." + domain)
		if s.askedFor("eve.hub."+domain) != 1 || p.orders.Load() != 3 {
			t.Errorf("%d questions, %d orders", s.askedFor("eve.hub."+domain), p.orders.Load())
		}
	})
	t.Run("a challenge that nobody waits for has no answer", func(t *testing.T) {
		if _, err := d.shake(&tls.Config{ServerName: domain, InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}); err == nil {
			t.Error("answered")
		}
	})
	t.Run("keys are for root alone", func(t *testing.T) {
		files := 0
		must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			must(t, err)
			info, err := e.Info()
			must(t, err)
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %s", path, info.Mode())
			}
			if strings.HasSuffix(path, ".key") {
				files++
			}
			return nil
		}))
		if files < 3 {
			t.Errorf("%d keys", files)
		}
	})
	t.Run("the next gateway goes on with them, also while the server is away", func(t *testing.T) {
		next := openDoor(t, "127.0.0.1:0", options)
		must(t, next.source.Set(p.web(domain), next.doors))
		if _, err := next.visit("ada.hub."+domain, p.roots, issuedBy()); err != nil {
			t.Error(err)
		}
		s.set(func() { s.fail = dspool.Errorf(dspool.Unavailable, "the server is away") })
		defer s.set(func() { s.fail = nil })
		for _, name := range []string{domain, "hub." + domain, "ada.hub." + domain} {
			if _, err := next.visit(name, p.roots, issuedBy()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := next.visit("bob.hub."+domain, p.roots, issuedBy()); err == nil {
			t.Error("bob has a certificate, though nobody could say who that is")
		}
		if n := p.orders.Load(); n != 3 {
			t.Errorf("%d orders", n)
		}
	})
	t.Run("what the server signs may have one, where nobody is asked who may", func(t *testing.T) {
		next := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Dir: dir})
		must(t, next.source.Set(p.web(domain), next.doors))
		if _, err := next.visit("ada.hub."+domain, p.roots, issuedBy()); err != nil {
			t.Error(err)
		}
		next.wantRefused("mallory.hub." + domain)
	})
}

func TestACMERenews(t *testing.T) {
	t.Parallel()
	domain := newDomain("renewed")
	s := newServer(t, domain)
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Allow: s.allow, Dir: t.TempDir()})
	// So short-lived that it is due at once, by what the authority itself says.
	p := newPebble(t, pebbleOptions{address: "127.0.0.1", tlsPort: portOf(t, d.addr), httpPort: 1, life: 5 * time.Minute})
	must(t, d.source.Set(p.web(domain), d.doors))
	first, err := d.visit(domain, p.roots, issuedBy())
	must(t, err)
	eventually(t, "another certificate, with one shown all the time", func() bool {
		cert, err := d.visit(domain, p.roots, issuedBy())
		must(t, err)
		return cert.SerialNumber.Cmp(first.SerialNumber) != 0
	})
}

func TestACMEByHTTP(t *testing.T) {
	t.Parallel()
	domain := newDomain("plain")
	// A port 80 of its own: loopback has many addresses.
	address := fmt.Sprintf("127.83.%d.%d", os.Getpid()>>8&0xff, os.Getpid()&0xff|1)
	s := newServer(t, domain, "ada")
	d := openDoor(t, address+":80", webtls.Options{Sign: s.sign, Allow: s.allow, Dir: t.TempDir()})
	p := newPebble(t, pebbleOptions{address: address, tlsPort: 1, httpPort: 80})
	must(t, d.source.Set(p.web(domain), d.doors))
	for _, name := range []string{domain, "ada.hub." + domain} {
		// By the other challenge the authority may have been asked first, in vain.
		eventually(t, "a certificate for "+name, func() bool {
			_, err := d.visit(name, p.roots, issuedBy())
			return err == nil
		})
	}
}

func TestACMEThatFailsIsNotTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	domain := newDomain("failing")
	s := newServer(t, domain, "ada")
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Allow: s.allow, Dir: t.TempDir()})
	p := newPebble(t, pebbleOptions{address: "127.0.0.1", tlsPort: 1, httpPort: 1}) // it reaches nothing
	must(t, d.source.Set(p.web(domain), d.doors))
	eventually(t, "orders for portal and hub", func() bool { return p.orders.Load() == 2 })
	for range 3 {
		begin := time.Now()
		if _, err := d.visit("ada.hub."+domain, p.roots, issuedBy()); err == nil {
			t.Error("a certificate without a proof")
		}
		if took := time.Since(begin); took > handshakeWithin/2 {
			t.Errorf("the browser waited for %s", took)
		}
	}
	if n := p.orders.Load(); n != 3 {
		t.Errorf("%d orders, want one for each name", n)
	}
}

func TestACMEWithoutTrustInItsDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test")
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Dir: t.TempDir()})
	empty := filepath.Join(t.TempDir(), "empty.pem")
	must(t, os.WriteFile(empty, nil, 0o644))
	for _, ca := range []string{empty, filepath.Join(t.TempDir(), "gone.pem")} {
		err := d.source.Set(api.Web{Domain: "pool.test", TLS: api.WebTLS{ACME: true, Directory: "https://127.0.0.1:1/dir", CA: ca}}, d.doors)
		if dspool.ErrorCode(err) != dspool.Invalid {
			t.Errorf("%s: %v", ca, err)
		}
	}
}
