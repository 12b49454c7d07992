package portal_test

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dspool/dspool/internal/portal"
)

// Requests that the gateway's web door passes on come by the server's own socket, as they do in life.
func TestBehindAWebDoor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.swap(w.portal().DoorHandler())
	w.change(func(s *portal.Settings) { s.URL = "https://pool.example.org" })
	b := w.browser()
	ask := func(method, path string, form url.Values, headers map[string]string) page {
		r := b.request(method, path, form)
		r.Host = "pool.example.org"
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		return b.do(r)
	}
	cookies := func(p page) string {
		var all []string
		for _, c := range p.header.Values("Set-Cookie") {
			all = append(all, strings.Split(c, ";")[0])
		}
		return strings.Join(all, "; ")
	}
	p := ask("GET", "/login", nil, nil)
	m := csrfField.FindStringSubmatch(p.body)
	if p.status != http.StatusOK || m == nil || !strings.HasPrefix(cookies(p), "__Host-dspool-before=") {
		t.Fatalf("%d %s", p.status, p.body)
	}
	if p.header.Get("Strict-Transport-Security") == "" {
		t.Error("browsers may come by plain http next time")
	}
	form := url.Values{"csrf": {m[1]}, "user": {"ada"}, "password": {password}}
	before := cookies(p)
	t.Run("the origin is that which the door says", func(t *testing.T) {
		for _, origin := range []string{"http://pool.example.org", "https://pool.example.org:8443", b.base, "https://evil.example"} {
			if p := ask("POST", "/login", form, map[string]string{"Cookie": before, "Origin": origin}); p.status != http.StatusForbidden {
				t.Errorf("%s: %d", origin, p.status)
			}
		}
		p := ask("POST", "/login", form, map[string]string{"Cookie": before, "Origin": "https://pool.example.org"})
		if p.status != http.StatusSeeOther || !strings.Contains(cookies(p), "__Host-dspool=dsp_") {
			t.Fatalf("%d %s", p.status, p.body)
		}
		login := cookies(p)
		if p := ask("GET", "/terminal/open", nil, map[string]string{"Cookie": login}); p.status != http.StatusOK || !strings.Contains(p.header.Get("Content-Security-Policy"), " wss://pool.example.org") {
			t.Errorf("%d %v", p.status, p.header)
		}
		if p := ask("GET", "/terminal/open?pool=batch&size=large", nil, map[string]string{"Cookie": login}); !strings.Contains(p.body, `data-pool="batch" data-size="large"`) {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := ask("GET", "/terminal/open?pool=batch&size=huge", nil, map[string]string{"Cookie": login}); p.status != http.StatusBadRequest || !strings.Contains(p.body, "Pool batch has no size &#34;huge&#34;.</p>\n<p>Its sizes: small, large.") {
			t.Errorf("%d %s", p.status, p.body)
		}
		if p := ask("GET", "/", nil, map[string]string{"Cookie": strings.Replace(login, "__Host-dspool=", "dspool=", 1)}); p.status != http.StatusSeeOther {
			t.Errorf("a cookie that others could set counts: %d", p.status)
		}
	})
	t.Run("and so is the address, for those who look", func(t *testing.T) {
		found := false
		for _, e := range w.EventsOf("web.login") {
			found = found || strings.Contains(e.Message, "198.51.100.7")
		}
		if !found {
			t.Error(w.EventsOf("web.login"))
		}
	})
}

func TestTheServersOwnSockets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	var d net.Dialer
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", filepath.Join(w.Dir, "portal.sock"))
		},
	}}
	get := func(host, path string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://portal"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("X-Forwarded-Proto", "http")
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	for _, ask := range []struct {
		host, path string
		status     int
	}{
		{"localhost:8000", "/", http.StatusSeeOther}, {"localhost:8000", "/login", http.StatusOK}, {"localhost:8000", "/healthz", http.StatusOK},
		{"evil.example", "/login", http.StatusMisdirectedRequest}, {"localhost:8000", "/api/v1/whoami", http.StatusUnauthorized},
		// What machines ask for, under the name that they have for it.
		{"api.dspool.internal:8445", "/api/v1/whoami", http.StatusUnauthorized}, {"api.dspool.internal:8445", "/oauth/userinfo", http.StatusUnauthorized},
		{"api.dspool.internal:8445", "/oauth/token", http.StatusMethodNotAllowed}, {"api.dspool.internal:8445", "/login", http.StatusMisdirectedRequest},
	} {
		if res := get(ask.host, ask.path); res.StatusCode != ask.status {
			t.Errorf("%s%s: %s", ask.host, ask.path, res.Status)
		}
	}
}
