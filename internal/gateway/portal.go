package gateway

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// portalPatience is how long a request for the portal waits for a server that restarts.
const portalPatience = 15 * time.Second

// portalIdle is how long a connection to the server is kept for the next request; the server keeps it longer.
const portalIdle = time.Minute

// newPortal passes requests for the portal and the API to the server's socket. The server believes the
// X-Forwarded headers there, so what people sent of them goes no further.
func newPortal(g *gateway) http.Handler {
	socket := filepath.Join(g.StateDir, "portal.sock")
	var d net.Dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, portalPatience)
			defer cancel()
			for rest := newRest(20*time.Millisecond, 500*time.Millisecond); ; {
				c, err := d.DialContext(ctx, "unix", socket)
				if err == nil || !rest.wait(ctx) {
					return c, err
				}
			}
		},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     portalIdle,
		DisableCompression:  true,
	}
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: "portal"})
			pr.Out.Host = pr.In.Host
			from, proto := g.web.origin(pr.In)
			for name := range pr.Out.Header {
				if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" || name == "X-Real-Ip" {
					pr.Out.Header.Del(name)
				}
			}
			pr.Out.Header.Set("X-Forwarded-For", from)
			pr.Out.Header.Set("X-Forwarded-Proto", proto)
		},
		Transport: transport, FlushInterval: -1,
		ErrorHandler: func(rw http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return
			}
			g.Log.Warn("pass a request to the server", "err", err)
			rw.Header().Set("Retry-After", "5")
			http.Error(rw, "The server does not answer. Please try again in a moment.", http.StatusBadGateway)
		},
	}
}

// origin is who asks and by which protocol; the headers of trusted proxies count, of nobody else.
func (w *web) origin(r *http.Request) (from, proto string) {
	proto = "http"
	if r.TLS != nil {
		proto = "https"
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	known := func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err == nil && w.trusts(a)
	}
	if !known(host) {
		return host, proto
	}
	if p := r.Header.Get("X-Forwarded-Proto"); p == "http" || p == "https" {
		proto = p
	}
	// From the right: each trusted proxy vouches for the one before it.
	list := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(list[i]))
		if err != nil {
			break
		}
		if host = a.Unmap().String(); !known(host) {
			break
		}
	}
	return host, proto
}
