package gateway

import (
	"net"
	"net/http"
	"strings"

	"github.com/dspool/dspool/internal/webdoor"
)

// machines serves the machine door. Addresses of machines cannot be forged: the host's network drops
// what comes from another place.
func (w *web) machines(rw http.ResponseWriter, r *http.Request) {
	now, _ := w.state()
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	ofHub := now.HubMachine != "" && from == now.HubMachine
	name := hostOf(r)
	id, isApp := appNumber(name)
	switch {
	case name == apiName && forMachines(r.URL.Path):
		// No proxy stands before this door, also where machines' addresses are among the trusted ones.
		r.Header.Del("X-Forwarded-For")
		r.Header.Del("X-Forwarded-Proto")
		w.portal.ServeHTTP(rw, r)
	case name == hubName && now.Hub != "" && strings.HasPrefix(r.URL.Path, "/hub/"):
		w.forward(rw, r, webdoor.Upstream{Network: "tcp", Address: now.Hub})
	case name == hubName && strings.HasPrefix(r.URL.Path, "/hub/"):
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "JupyterHub does not run now.", http.StatusServiceUnavailable)
	case !ofHub && (name == proxyName || isApp):
		http.Error(rw, "Only JupyterHub's machine reaches this.", http.StatusForbidden)
	case name == proxyName && now.ProxyToken != "":
		w.proxyAPI(now.ProxyToken, rw, r)
	case isApp:
		up, ok := w.app(r.Context(), id)
		if !ok {
			http.Error(rw, "This app does not run.", http.StatusServiceUnavailable)
			return
		}
		w.forward(rw, r, up)
	default:
		http.NotFound(rw, r)
	}
}

// forMachines are paths of the server that machines have use for, beside their agent's own link.
func forMachines(path string) bool {
	return strings.HasPrefix(path, "/api/v1/") || path == "/oauth/token" || path == "/oauth/userinfo"
}

// proxyAPI lets JupyterHub set routes. When the doors have been handed over, another gateway answers the
// next connection.
func (w *web) proxyAPI(token string, rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	left := w.left
	w.mu.Unlock()
	if left {
		rw.Header().Set("Connection", "close")
	}
	w.routes.API(token).ServeHTTP(rw, r)
}

// forward passes a request on to an address that the server has named.
func (w *web) forward(rw http.ResponseWriter, r *http.Request, to webdoor.Upstream) {
	err := w.machine.Forward(rw, r, webdoor.Call{To: to, Scope: hostOf(r)})
	if err != nil {
		rw.Header().Set("Retry-After", "1")
		http.Error(rw, "It does not answer.", http.StatusServiceUnavailable)
	}
}
