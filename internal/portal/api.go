package portal

import (
	"net"
	"net/http"

	"github.com/dspool/dspool/internal/auth"
)

// serveAPI passes a request on to the REST API: as whoever shows a token or, from a page of the portal, as
// whoever is logged in there.
func (p *Portal) serveAPI(w http.ResponseWriter, r *http.Request, v visit) {
	r = v.told(r)
	if r.Header.Get("Authorization") != "" || v.cookie(r, loginCookie) == "" {
		p.API.Handler().ServeHTTP(w, r)
		return
	}
	s, err := p.Settings(r.Context())
	if err != nil {
		p.Log.Error("read the portal's settings", "err", err)
		p.API.Handler().ServeHTTP(w, r)
		return
	}
	v.settings = s
	m, err := p.login(r, v)
	if err != nil {
		p.Log.Error("look up a web login", "err", err)
	}
	if m == nil || !v.known(p.Control.HostNames) || !v.ownRequest(r) {
		p.API.Handler().ServeHTTP(w, r) // which refuses it, unless nobody need be known
		return
	}
	secret := v.cookie(r, loginCookie)
	p.API.As(m.Who, func() (auth.Subject, error) {
		b, err := p.Control.WebLogin(r.Context(), secret)
		return b.Who, err
	}).ServeHTTP(w, r)
}

// told is the request with what the API is to know of how it has come.
func (v visit) told(r *http.Request) *http.Request {
	t, u := *r, *r.URL
	u.Scheme = v.scheme()
	t.URL = &u
	if v.door && v.from != "" {
		t.RemoteAddr = net.JoinHostPort(v.from, "0") // wrong passwords of one address hold back nobody else
	}
	return &t
}

// ownRequest says whether the portal's own page sent a request. Of those that change nothing only what the
// browser says itself counts: it sends no Origin with them.
func (v visit) ownRequest(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return v.sameOrigin(r)
	}
	if o := r.Header.Get("Origin"); o != "" && o != v.origin() {
		return false
	}
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "" || site == "same-origin" || site == "none" && r.Header.Get("Sec-Fetch-Mode") == "navigate"
}
