package auth_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/internal/auth"
)

// A host without a battery starts in 1970, and NTP sets its clock a minute later; another starts years ahead.
func TestCertificatesCountOnAClockThatIsSet(t *testing.T) {
	t.Parallel()
	today := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ca, err := auth.OpenAuthority(t.TempDir(), "test") // wherever the clock was
	if err != nil {
		t.Fatal(err)
	}
	now := today
	server := ca.ServerTLS([]string{"pool.test"}, func() time.Time { return now })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	come := func(at time.Time) error {
		near, far := net.Pipe()
		defer near.Close()
		go func() {
			defer far.Close()
			_ = tls.Server(far, server).Handshake()
		}()
		return tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "pool.test", Time: func() time.Time { return at }}).Handshake()
	}
	for _, c := range []struct {
		when string
		host time.Time
	}{{"in 1970", time.Unix(10, 0)}, {"set right", today}, {"years ahead", today.AddDate(3, 0, 0)}, {"set right again", today.Add(time.Minute)}} {
		now = c.host
		if err := come(c.host); err != nil {
			t.Errorf("%s: %v", c.when, err)
		}
	}
	now = today.AddDate(0, 11, 0)
	if err := come(today); err != nil {
		t.Errorf("who knows the time better than the host: %v", err)
	}
}

func TestSSHCertificatesOf1970Count(t *testing.T) {
	t.Parallel()
	a, err := auth.OpenSSHAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(10, 0)
	text, err := a.SignGateway(auth.KeyLine(key), "ada", "x", 1, now)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&ssh.CertChecker{Clock: func() time.Time { return now }}).CheckCert("ada", cert.(*ssh.Certificate)); err != nil {
		t.Error(err)
	}
}
