package httpapi

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"testing"
)

func TestPeopleAreSentWhereTheirBrowserFindsThePortal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, portal, host, scheme string
		tls                         bool
		want                        string
	}{
		{"at its own name", "https://pool.example.org", "pool.example.org:8443", "https", true, "https://pool.example.org"},
		{"also who asks by an address", "https://pool.example.org", "192.0.2.1:8443", "https", true, "https://pool.example.org"},
		{"on the server's host, on loopback", "http://localhost:8000", "127.0.0.1:8443", "https", true, "http://localhost:8000"},
		{"from elsewhere never on loopback", "http://localhost:8000", "pool.example.org:8443", "https", true, "https://pool.example.org:8443"},
		{"nor by a name below it", "http://pool.localhost:8000", "[2001:db8::1]:8443", "", true, "https://[2001:db8::1]:8443"},
		{"without a web door, where they have asked", "", "localhost:8443", "", true, "https://localhost:8443"},
		{"behind a door, by its protocol", "", "pool.example.org", "https", false, "https://pool.example.org"},
		{"in plain where nothing else is", "", "localhost:8000", "", false, "http://localhost:8000"},
	} {
		r := &http.Request{Host: c.host, URL: &url.URL{Scheme: c.scheme}}
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if got := portalFor(c.portal, r); got != c.want {
			t.Errorf("%s: %s, want %s", c.claim, got, c.want)
		}
	}
}
