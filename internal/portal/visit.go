package portal

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// visit is how a request has come.
type visit struct {
	https    bool
	host     string // as the browser wrote it, in lower case
	from     string // address, perhaps with port
	door     bool   // a door has passed it on
	uri      *url.URL
	settings Settings
}

type visitKey struct{}

func visitOf(r *http.Request) visit { return r.Context().Value(visitKey{}).(visit) }

// cameBy reads how a request has come. A door sets X-Forwarded-For and -Proto itself; from anybody else
// they mean nothing, and X-Forwarded-Host means nothing at all.
func cameBy(r *http.Request, door bool) visit {
	v := visit{https: r.TLS != nil, host: strings.ToLower(r.Host), from: r.RemoteAddr, door: door, uri: r.URL}
	if door {
		v.https = r.Header.Get("X-Forwarded-Proto") == "https"
		v.from = r.Header.Get("X-Forwarded-For")
	}
	return v
}

func (v visit) scheme() string {
	if v.https {
		return "https"
	}
	return "http"
}

// origin is that of the page that the browser shows (RFC 6454).
func (v visit) origin() string {
	host := v.host
	if h, port, err := net.SplitHostPort(host); err == nil && port == map[bool]string{true: "443", false: "80"}[v.https] {
		host = h
	}
	return v.scheme() + "://" + host
}

// known says whether the name is one of the server's. Names that are not would let a page of a foreign
// site, whose name has come to mean this server, be of the portal's origin; addresses cannot.
func (v visit) known(names []string) bool {
	host := v.host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(host, ".")
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	if u, err := url.Parse(v.settings.URL); err == nil && u.Hostname() != "" && strings.EqualFold(u.Hostname(), host) {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, host) })
}

// sameOrigin says whether a page of the portal itself has sent the request. Browsers say so with
// everything that is no GET; who says nothing is refused.
func (v visit) sameOrigin(r *http.Request) bool {
	if s := r.Header.Get("Sec-Fetch-Site"); s != "" && s != "same-origin" {
		return false
	}
	o := r.Header.Values("Origin")
	return len(o) == 1 && (o[0] == v.origin() || v.door && v.settings.URL != "" && o[0] == v.settings.URL)
}

// url is the portal's, for others to lead people back to.
func (v visit) url() string {
	if v.settings.URL != "" {
		return v.settings.URL
	}
	return v.origin()
}

// mostNext bounds what a login leads to afterwards: an authorization request fits.
const mostNext = 4096

// safeNext is a path of the portal to go to, or "/" for anything that could lead elsewhere: browsers take
// backslashes for slashes and drop tabs and line ends (WHATWG URL), and proxies may decode once more.
func safeNext(next string) string {
	path, _, _ := strings.Cut(next, "?")
	plain, err := url.PathUnescape(path)
	if err != nil || len(next) > mostNext || !strings.HasPrefix(next, "/") {
		return "/"
	}
	bad := func(s string) bool {
		return strings.Contains(s, "//") || strings.Contains(s, "/./") || strings.Contains(s, "/../") || strings.HasSuffix(s, "/..") ||
			strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == '\\' || c == 0x7f || c > 0x7e })
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || bad(path) || bad(plain) || strings.ContainsFunc(next, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "/"
	}
	return next
}

// redirect sends a browser to a place that the caller has checked.
func redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}
