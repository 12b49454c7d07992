package webtls_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

func TestPlainHTTPAtATLSDoor(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test", "ada")
	d := ownAuthority(t, s, "pool.test")
	_, port, err := net.SplitHostPort(d.addr)
	must(t, err)
	ask := func(method, target, host string) *http.Response {
		t.Helper()
		c, err := net.DialTimeout("tcp", d.addr, atOnce)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(atOnce))
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", method, target, host)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		return r
	}
	t.Run("a person is led to https at the same place", func(t *testing.T) {
		for host, want := range map[string]string{
			"pool.test:" + port:         "https://pool.test:" + port + "/jobs?a=b",
			"Ada.hub.pool.test:" + port: "https://ada.hub.pool.test:" + port + "/jobs?a=b",
			"hub.pool.test":             "https://hub.pool.test/jobs?a=b",
			"hub.pool.test:80":          "https://hub.pool.test/jobs?a=b",
		} {
			if r := ask("GET", "/jobs?a=b", host); r.StatusCode != http.StatusTemporaryRedirect || r.Header.Get("Location") != want {
				t.Errorf("%s: %d %s", host, r.StatusCode, r.Header.Get("Location"))
			}
		}
	})
	t.Run("nobody is led elsewhere, and nothing else is answered", func(t *testing.T) {
		for _, q := range [][3]string{{"GET", "/", "evil.test"}, {"GET", "/", d.addr}, {"GET", "/", "evil.test@pool.test"}, {"GET", "http://evil.test/", "pool.test"},
			{"POST", "/", "pool.test"}, {"GET", "/.well-known/acme-challenge/x", "evil.test"}, {"OPTIONS", "*", "pool.test"}} {
			if r := ask(q[0], q[1], q[2]); r.StatusCode != http.StatusBadRequest || r.Header.Get("Location") != "" {
				t.Errorf("%v: %d %s", q, r.StatusCode, r.Header.Get("Location"))
			}
		}
		if r := ask("GET", "//evil.test/", "pool.test"); r.Header.Get("Location") != "https://pool.test//evil.test/" {
			t.Error(r.Header.Get("Location"))
		}
	})
}

func TestSilentConnectionsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test")
	d := ownAuthority(t, s, "pool.test")
	var silent []net.Conn
	for range 200 {
		c, err := net.DialTimeout("tcp", d.addr, atOnce)
		must(t, err)
		defer c.Close()
		silent = append(silent, c)
	}
	begin := time.Now()
	if _, err := d.visit("pool.test", s.roots(), s.clock.now()); err != nil || time.Since(begin) > atOnce {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	t.Run("and a door that closes takes no new ones", func(t *testing.T) {
		sorted := d.source.Listen(listen(t))
		must(t, sorted.Close())
		if _, err := sorted.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener still accepts: %v", err)
		}
		if c, err := net.Dial("tcp", sorted.Addr().String()); err == nil {
			c.Close()
			t.Error("somebody still gets in")
		}
	})
}

func TestAConnectionOutlivesTheListenerThatItCameThrough(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test")
	d := ownAuthority(t, s, "pool.test")
	sorted := d.source.Listen(listen(t))
	c, err := net.DialTimeout("tcp", sorted.Addr().String(), atOnce)
	must(t, err)
	defer c.Close()
	in, err := sorted.Accept()
	must(t, err)
	defer in.Close()
	must(t, sorted.Close()) // as when doors are handed over
	shaken := make(chan error, 1)
	go func() { shaken <- in.(*tls.Conn).Handshake() }()
	c.SetDeadline(time.Now().Add(atOnce))
	must(t, tls.Client(c, &tls.Config{ServerName: "pool.test", RootCAs: s.roots(), Time: s.clock.now}).Handshake())
	must(t, <-shaken)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return l
}
