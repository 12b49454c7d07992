package webtls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webtls"
)

const (
	handshakeWithin = 30 * time.Second // also when a certificate must be got for it
	soon            = 30 * time.Second // for what happens in the background
	atOnce          = 5 * time.Second  // for what waits for nobody
)

func TestMain(m *testing.M) {
	// The test authority's own whims.
	os.Setenv("PEBBLE_VA_NOSLEEP", "1")
	os.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	os.Exit(m.Run())
}

// clock is moved by hand.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

// server is the dspool server as a source sees it, with an authority of its own.
type server struct {
	t     testing.TB
	clock *clock
	key   *ecdsa.PrivateKey
	cert  *x509.Certificate
	life  time.Duration

	mu    sync.Mutex
	users map[string]bool
	asked map[string]int // requests by name
	fail  error
	hold  chan struct{} // requests wait for it
}

func newServer(t testing.TB, domain string, users ...string) *server {
	s := &server{t: t, clock: newClock(), life: 90 * 24 * time.Hour, users: map[string]bool{domain: true, "hub." + domain: true}, asked: map[string]int{}}
	for _, u := range users {
		s.users[u+".hub."+domain] = true
	}
	s.key, s.cert = selfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: s.clock.now().Add(-time.Hour), NotAfter: s.clock.now().Add(10 * 365 * 24 * time.Hour)})
	return s
}

func selfSigned(t testing.TB, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return key, cert
}

func (s *server) sign(ctx context.Context, names []string, csr string) (string, error) {
	s.mu.Lock()
	fail, hold, known := s.fail, s.hold, s.users[names[0]]
	s.asked[names[0]]++
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if fail != nil {
		return "", fail
	}
	if len(names) != 1 || !known {
		return "", dspool.Errorf(dspool.Forbidden, "%s is nobody's", names[0])
	}
	block, _ := pem.Decode([]byte(csr))
	req, err := x509.ParseCertificateRequest(block.Bytes)
	must(s.t, err)
	now := s.clock.now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names,
		NotBefore: now, NotAfter: now.Add(s.life)}, s.cert, req.PublicKey, s.key)
	must(s.t, err)
	return pemOf(der) + pemOf(s.cert.Raw), nil
}

// allow is sign without a certificate.
func (s *server) allow(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[name]++
	switch {
	case s.fail != nil:
		return s.fail
	case !s.users[name]:
		return dspool.Errorf(dspool.Forbidden, "%s is nobody's", name)
	}
	return nil
}

func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *server) askedFor(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *server) askedAtAll() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.asked {
		n += c
	}
	return n
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// door is a web door with a source.
type door struct {
	t      testing.TB
	source *webtls.Source
	addr   string
	doors  []dspool.Door
}

// openDoor listens at an address of loopback and serves "hello" there.
func openDoor(t testing.TB, listen string, o webtls.Options) *door {
	t.Helper()
	l, err := net.Listen("tcp", listen)
	must(t, err)
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	d := &door{t: t, source: webtls.New(o), addr: l.Addr().String()}
	d.doors = []dspool.Door{{Listen: d.addr, Protocol: dspool.ProtocolWeb}, {Listen: ":22", Protocol: dspool.ProtocolSSH}}
	sorted := d.source.Listen(l)
	web := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello by %s", r.Proto) }),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		web.Serve(sorted)
	}()
	t.Cleanup(func() {
		web.Close()
		<-served
		d.source.Close()
	})
	return d
}

// testLog shows what is logged until the test has ended.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// visit makes a handshake as a browser that opens https://NAME.
func (d *door) visit(name string, roots *x509.CertPool, at time.Time) (*x509.Certificate, error) {
	d.t.Helper()
	return d.shake(&tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}, Time: func() time.Time { return at }})
}

func (d *door) shake(c *tls.Config) (*x509.Certificate, error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), handshakeWithin)
	defer cancel()
	conn, err := (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// wantRefused wants the alert "unrecognized name", at once.
func (d *door) wantRefused(name string) {
	d.t.Helper()
	_, err := d.shake(&tls.Config{ServerName: name, InsecureSkipVerify: true})
	// The alert's own type is not exported.
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		d.t.Errorf("%s: %v", name, err)
	}
}

func (s *server) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.cert)
	return pool
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition of the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// writePair writes a certificate for names, which signs itself, and its key.
func writePair(t testing.TB, dir string, names ...string) (cert *x509.Certificate, w api.WebTLS) {
	t.Helper()
	key, cert := selfSigned(t, &x509.Certificate{DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	w = api.WebTLS{Certificate: filepath.Join(dir, "web.pem"), Key: filepath.Join(dir, "web.key")}
	must(t, os.WriteFile(w.Certificate, []byte(pemOf(cert.Raw)), 0o644))
	must(t, os.WriteFile(w.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return cert, w
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}
