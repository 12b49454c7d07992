package webtls_test

import (
	"context"
	"crypto/x509"
	"os"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webtls"
)

type ctx = context.Context

func TestFiles(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test", "ada")
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Now: s.clock.now})
	dir := t.TempDir()
	cert, files := writePair(t, dir, "pool.test", "*.hub.pool.test")
	must(t, d.source.Set(api.Web{Domain: "pool.test", TLS: files}, d.doors))
	shown := func() string {
		t.Helper()
		got, err := d.visit("ada.hub.pool.test", pool(cert), time.Now())
		must(t, err)
		return got.SerialNumber.String()
	}
	first := shown()

	t.Run("a new certificate is shown without anybody saying so", func(t *testing.T) {
		cert, _ = writePair(t, dir, "pool.test", "*.hub.pool.test")
		s.clock.forward(6 * time.Second)
		if got := shown(); got == first || got != cert.SerialNumber.String() {
			t.Error(got)
		}
	})
	second := shown()
	t.Run("files that cannot be used change nothing", func(t *testing.T) {
		must(t, os.WriteFile(files.Key, []byte("half a ke"), 0o600))
		for range 2 {
			s.clock.forward(6 * time.Second)
			if got := shown(); got != second {
				t.Error(got)
			}
		}
		must(t, os.Remove(files.Certificate))
		s.clock.forward(6 * time.Second)
		if got := shown(); got != second {
			t.Error(got)
		}
	})
	t.Run("and cannot be set", func(t *testing.T) {
		err := d.source.Set(api.Web{Domain: "other.test", TLS: files}, d.doors)
		if dspool.ErrorCode(err) != dspool.Invalid {
			t.Error(err)
		}
		if got := shown(); got != second {
			t.Error(got)
		}
	})
	t.Run("another setting counts at once", func(t *testing.T) {
		must(t, d.source.Set(api.Web{Domain: "pool.test"}, d.doors))
		if _, err := d.visit("ada.hub.pool.test", s.roots(), s.clock.now()); err != nil {
			t.Error(err)
		}
		must(t, d.source.Set(api.Web{Domain: "other.test"}, d.doors))
		d.wantRefused("ada.hub.pool.test")
	})
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
