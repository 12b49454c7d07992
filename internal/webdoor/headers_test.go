package webdoor_test

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/dspool/dspool/internal/webdoor"
)

// forged is what a client says of itself that only a proxy may say.
var forged = http.Header{
	"X-Forwarded-For": {"6.6.6.6", "7.7.7.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Port": {"1"},
	"X-Forwarded-Server": {"evil"}, "X-Forwarded-Prefix": {"/evil"}, "Forwarded": {"for=6.6.6.6;host=evil.example"}, "X-Real-Ip": {"6.6.6.6"},
	"X-Scheme": {"https"}, "X_forwarded_for": {"6.6.6.6"}, "X-Forwarded_proto": {"https"}, "X_real-Ip": {"6.6.6.6"},
}

func TestWhatClientsSayOfThemselvesIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.echoing("up")
	w.route("/", "http://up")
	r := w.request("GET", "/", "")
	r.Host = "hub.localhost:8000"
	r.Header = forged.Clone()
	got := w.do(r).echo(t)
	want := http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"hub.localhost:8000"}, "X-Forwarded-Port": {"8000"}}
	for name := range forged {
		if strings.Join(got.Header[name], "|") != strings.Join(want[name], "|") {
			t.Errorf("%s: %q, want %q", name, got.Header[name], want[name])
		}
	}
	if got.Host != "hub.localhost:8000" {
		t.Errorf("the host became %s", got.Host)
	}
	// Nor can they have it taken away, as a matter of this hop.
	r = w.request("GET", "/", "")
	r.Header.Set("Connection", "close, X-Forwarded-For, X-Forwarded-Proto, Cookie")
	r.Header.Set("Cookie", "a=b")
	if got = w.do(r).echo(t); got.Header.Get("X-Forwarded-For") != "127.0.0.1" || got.Header.Get("Cookie") != "" {
		t.Error(got.Header)
	}
}

func TestATrustedProxyIsBelieved(t *testing.T) {
	t.Parallel()
	trusts := func(networks ...string) func(netip.Addr) bool {
		return func(a netip.Addr) bool {
			for _, n := range networks {
				if netip.MustParsePrefix(n).Contains(a) {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		claim  string
		trusts func(netip.Addr) bool
		sent   http.Header
		want   map[string]string
	}{
		{"what it says is passed on", trusts("127.0.0.0/8"), http.Header{"X-Forwarded-For": {"1.2.3.4"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"hub.example"}},
			map[string]string{"X-Forwarded-For": "1.2.3.4, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "hub.example", "X-Forwarded-Port": "443"}},
		{"what it does not say is filled in", trusts("127.0.0.1/32"), nil,
			map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "hub.localhost", "X-Forwarded-Port": "80"}},
		{"another is not", trusts("10.0.0.0/8", "::1/128"), http.Header{"X-Forwarded-For": {"1.2.3.4"}},
			map[string]string{"X-Forwarded-For": "127.0.0.1"}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, webdoor.Options{Trusts: c.trusts})
			w.echoing("up")
			w.route("/", "http://up")
			r := w.request("GET", "/", "")
			r.Host = "hub.localhost"
			if c.sent != nil {
				r.Header = c.sent
			}
			got := w.do(r).echo(t)
			for name, want := range c.want {
				if got.Header.Get(name) != want || len(got.Header[name]) != 1 {
					t.Errorf("%s: %q, want %q", name, got.Header[name], want)
				}
			}
		})
	}
}

func TestFieldsOfOneHopEndHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	seen := make(chan http.Header, 1)
	w.upstream("up", func(rw http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		h := rw.Header()
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("X-Own", "gone")
		h.Set("X-Kept", "kept")
		h["Connection"] = []string{"X-Own"}
		h["Set-Cookie"] = []string{"a=1", "b=2"}
		rw.WriteHeader(http.StatusTeapot)
	})
	w.route("/", "http://up")
	r := w.request("GET", "/", "")
	r.Header = http.Header{
		"Connection": {"X-Secret, keep-alive", "x-other"}, "X-Secret": {"1"}, "X-Other": {"1"}, "Keep-Alive": {"1"}, "Proxy-Authorization": {"Basic x"},
		"Proxy-Connection": {"keep-alive"}, "Te": {"gzip, trailers"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}, "Authorization": {"token t"}, "Cookie": {"c=d; e=f"},
	}
	a := w.do(r)
	got := within(t, "the request", seen)
	for _, name := range []string{"Connection", "X-Secret", "X-Other", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Upgrade"} {
		if got[name] != nil {
			t.Errorf("%s: %q went on", name, got[name])
		}
	}
	if got.Get("Te") != "trailers" || got.Get("Authorization") != "token t" || got.Get("Cookie") != "c=d; e=f" {
		t.Errorf("%q", got)
	}
	if a.StatusCode != http.StatusTeapot || a.Header.Get("X-Own") != "" || a.Header.Get("Keep-Alive") != "" || a.Header.Get("Proxy-Authenticate") != "" ||
		a.Header.Get("X-Kept") != "kept" || len(a.Header["Set-Cookie"]) != 2 {
		t.Errorf("%d %q", a.StatusCode, a.Header)
	}
}

func TestNothingIsAddedToAResponse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	w.raw("up", answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nDate: then\r\n\r\n<html>"))
	w.route("/", "http://up")
	a := w.get("/")
	if len(a.Header) != 2 || a.Header.Get("Date") != "then" || a.body != "<html>" {
		t.Errorf("%q %q", a.Header, a.body)
	}
}

// An upstream may be given another name than the one that the client asks for.
func TestAnUpstreamMayHaveAHostOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, webdoor.Options{})
	up := w.echoing("up")
	var p webdoor.Proxy
	t.Cleanup(p.Close)
	addr := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Host)
		if err := p.Forward(rw, r, webdoor.Call{To: webdoor.Upstream{Network: "tcp", Address: up.Listener.Addr().String(), Host: "of." + host}, Target: "/else?where"}); err != nil {
			t.Error(err)
		}
	}), nil)
	w.addr = addr
	if got := w.get("/x").echo(t); got.Host != "of.127.0.0.1" || got.Target != "/else?where" || got.Header.Get("X-Forwarded-Host") != addr {
		t.Error(got)
	}
}
