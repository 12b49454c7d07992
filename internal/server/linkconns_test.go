package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/auth"
)

// fromElsewhere makes connections look as if they came from a machine.
type fromElsewhere struct{ net.Listener }

func (l fromElsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return remote{c}, nil
}

type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 5000} }

// echo serves the agent link with what it does not serve, and returns how to come in with a certificate, or
// none, and whether one is served.
func echo(t *testing.T, ca *auth.Authority) (dial func(...tls.Certificate) *tls.Conn, echoes func(*tls.Conn) bool) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitLink(fromElsewhere{inner}, ca.AgentTLS(time.Now))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(ca.PEM())
	dial = func(certs ...tls.Certificate) *tls.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", inner.Addr().String(), &tls.Config{RootCAs: trust, ServerName: auth.AgentServerName, Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	echoes = func(c *tls.Conn) bool {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return false
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	return dial, echoes
}

// Somebody on a machine, without its key, opens connections to the agent link without end.
func TestAttackFloodOfLinkConnections(t *testing.T) {
	t.Parallel()
	ca, err := auth.OpenAuthority(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	dial, echoes := echo(t, ca)
	agent := machineCertificate(t, ca, time.Now())
	own := dial(agent)
	if !echoes(own) {
		t.Fatal("the agent is not served")
	}
	var flood []*tls.Conn
	for range 3 * mostOfMachine {
		c := dial()
		echoes(c)
		flood = append(flood, c)
	}
	alive := 0
	for _, c := range flood {
		if echoes(c) {
			alive++
		}
	}
	if alive > mostOfMachine {
		t.Errorf("%d connections are served, at most %d are to be", alive, mostOfMachine)
	}
	if !echoes(own) || !echoes(dial(agent)) {
		t.Error("the flood ended the agent's connection")
	}
}

// A machine that joined while the clock was wrong stays one of the pool when it is set right.
func TestOnlyTheAuthorityOfAMachinesCertificateCounts(t *testing.T) {
	t.Parallel()
	ca, err := auth.OpenAuthority(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	other, err := auth.OpenAuthority(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	door, err := ca.ServerCertificate([]string{"lab-1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dial, echoes := echo(t, ca)
	for name, c := range map[string]struct {
		cert tls.Certificate
		want bool
	}{
		"of a year ago":                {machineCertificate(t, ca, time.Now().AddDate(-1, 0, 0)), true},
		"of 1970":                      {machineCertificate(t, ca, time.Unix(10, 0)), true},
		"of next year":                 {machineCertificate(t, ca, time.Now().AddDate(1, 0, 0)), true},
		"of another authority":         {machineCertificate(t, other, time.Now()), false},
		"of the authority for servers": {*door, false},
	} {
		if got := echoes(dial(c.cert)); got != c.want {
			t.Errorf("a certificate %s is served: %v", name, got)
		}
	}
}

func machineCertificate(t *testing.T, ca *auth.Authority, now time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.SignMachine("lab-1", key.Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(text), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
