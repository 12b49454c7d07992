package webtls_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webtls"
)

func ownAuthority(t *testing.T, s *server, domain string) *door {
	t.Helper()
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Now: s.clock.now})
	must(t, d.source.Set(api.Web{Domain: domain}, d.doors))
	return d
}

func TestOwnAuthority(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test", "ada", "bob")
	d := ownAuthority(t, s, "pool.test")

	t.Run("portal, hub and users have certificates of their own", func(t *testing.T) {
		for _, name := range []string{"pool.test", "hub.pool.test", "ada.hub.pool.test"} {
			cert, err := d.visit(name, s.roots(), s.clock.now())
			if err != nil || !slices.Equal(cert.DNSNames, []string{name}) {
				t.Errorf("%s: %v", name, err)
			}
			if s.askedFor(name) != 1 {
				t.Errorf("%s was asked for %d times", name, s.askedFor(name))
			}
		}
	})
	t.Run("many browsers at once ask once", func(t *testing.T) {
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				if _, err := d.visit("bob.hub.pool.test", s.roots(), s.clock.now()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := s.askedFor("bob.hub.pool.test"); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("capitals are the same name, and an address is the portal's", func(t *testing.T) {
		before := s.askedAtAll()
		_, err := d.visit("ADA.Hub.pool.TEST", s.roots(), s.clock.now())
		must(t, err)
		cert, err := d.shake(&tls.Config{InsecureSkipVerify: true})
		if err != nil || cert.DNSNames[0] != "pool.test" {
			t.Errorf("%v", err)
		}
		if s.askedAtAll() != before {
			t.Error("asked again")
		}
	})
	t.Run("nobody is asked about foreign names", func(t *testing.T) {
		before := s.askedAtAll()
		for _, name := range []string{"evil.test", "ada.pool.test", "pool.test.evil.test", "x.ada.hub.pool.test", "test", "hub.hub.pool.test.", "a_b.hub.pool.test",
			"*.hub.pool.test", "-x.hub.pool.test", strings.Repeat("a", 33) + ".hub.pool.test"} {
			d.wantRefused(strings.TrimSuffix(name, "."))
		}
		if n := s.askedAtAll() - before; n != 1 { // hub.hub.pool.test would be a user called hub
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("a user whom the server does not know is refused, and asked about again only later", func(t *testing.T) {
		const eve = "eve.hub.pool.test"
		for range 3 {
			d.wantRefused(eve)
		}
		if n := s.askedFor(eve); n != 1 {
			t.Errorf("asked %d times", n)
		}
		s.set(func() { s.users[eve] = true })
		s.clock.forward(11 * time.Second)
		if _, err := d.visit(eve, s.roots(), s.clock.now()); err != nil {
			t.Error(err)
		}
	})
	t.Run("HTTP/2 is spoken, TLS 1.1 is not, nor what only ACME's authorities ask for", func(t *testing.T) {
		client := &http.Client{Timeout: atOnce, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{ServerName: "pool.test", RootCAs: s.roots()}}}
		r, err := client.Get("https://" + d.addr)
		must(t, err)
		defer r.Body.Close()
		if got := readAll(t, r.Body); got != "hello by HTTP/2.0" {
			t.Error(got)
		}
		client.CloseIdleConnections()
		if _, err := d.shake(&tls.Config{ServerName: "pool.test", InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
			t.Error("TLS 1.1 is spoken")
		}
		if _, err := d.shake(&tls.Config{ServerName: "pool.test", InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}}); err == nil {
			t.Error("a challenge is answered")
		}
	})
}

func TestOwnCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test")
	d := ownAuthority(t, s, "pool.test")
	visit := func() (serial string, err error) {
		cert, err := d.visit("pool.test", s.roots(), s.clock.now())
		if err != nil {
			return "", err
		}
		return cert.SerialNumber.String(), nil
	}
	first, err := visit()
	must(t, err)

	s.clock.forward(s.life * 2 / 3)
	s.set(func() { s.hold = make(chan struct{}) })
	s.clock.forward(time.Hour)
	t.Run("the old one is shown while a new one is asked for", func(t *testing.T) {
		for range 3 {
			if got, err := visit(); err != nil || got != first {
				t.Errorf("%s, %v", got, err)
			}
		}
		eventually(t, "a request", func() bool { return s.askedFor("pool.test") == 2 })
		s.set(func() { close(s.hold); s.hold = nil })
		eventually(t, "the new certificate", func() bool { got, err := visit(); return err == nil && got != first })
		if n := s.askedFor("pool.test"); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("an old one outlives a server that is away", func(t *testing.T) {
		second, err := visit()
		must(t, err)
		s.set(func() { s.fail = dspool.Errorf(dspool.Unavailable, "the server is away") })
		s.clock.forward(s.life * 3 / 4)
		for range 3 {
			if got, err := visit(); err != nil || got != second {
				t.Errorf("%s, %v", got, err)
			}
			s.clock.forward(time.Minute)
		}
	})
	t.Run("one that has expired is never shown", func(t *testing.T) {
		s.clock.forward(s.life)
		if _, err := visit(); err == nil {
			t.Error("shown")
		}
		s.set(func() { s.fail = nil })
		s.clock.forward(3 * time.Second)
		if _, err := visit(); err != nil {
			t.Errorf("once the server is back: %v", err)
		}
	})
}

func TestABrowserThatLeavesHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test", "ada")
	s.hold = make(chan struct{})
	d := ownAuthority(t, s, "pool.test")
	done := make(chan error, 1)
	go func() {
		_, err := d.visit("ada.hub.pool.test", s.roots(), s.clock.now())
		done <- err
	}()
	eventually(t, "the request", func() bool { return s.askedFor("ada.hub.pool.test") == 1 })
	d.source.Close() // ends the request as well
	select {
	case err := <-done:
		if err == nil {
			t.Error("got a certificate")
		}
	case <-time.After(atOnce):
		t.Error("it still waits")
	}
}

func TestAnAnswerThatDoesNotFitIsNotShown(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test", "ada")
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Now: s.clock.now, Sign: func(ctx ctx, names []string, csr string) (string, error) {
		return s.sign(ctx, []string{"pool.test"}, csr) // another name's
	}})
	must(t, d.source.Set(api.Web{Domain: "pool.test"}, d.doors))
	if _, err := d.shake(&tls.Config{ServerName: "ada.hub.pool.test", InsecureSkipVerify: true}); err == nil {
		t.Error("shown")
	}
	if _, err := d.visit("pool.test", s.roots(), s.clock.now()); err != nil {
		t.Error(err)
	}
}

func TestBeforeSetThereIsNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test")
	d := openDoor(t, "127.0.0.1:0", webtls.Options{Sign: s.sign, Now: s.clock.now})
	d.wantRefused("pool.test")
	d.source.Close()
	if err := d.source.Set(api.Web{Domain: "pool.test"}, d.doors); err == nil || errors.As(err, new(*dspool.Error)) {
		t.Errorf("after Close: %v", err)
	}
}

func TestACertificateFromAClockThatWasAheadIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := newServer(t, "pool.test")
	const wrong = 30 * 24 * time.Hour
	s.clock.forward(wrong)
	d := ownAuthority(t, s, "pool.test")
	_, err := d.visit("pool.test", s.roots(), s.clock.now())
	must(t, err)
	s.clock.forward(-wrong)
	if _, err := d.visit("pool.test", s.roots(), s.clock.now()); err != nil {
		t.Error(err)
	}
}
