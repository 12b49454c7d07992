// Package portal serves the web pages of a pool and the one login that pages, JupyterHub and the
// API share. It is a caller of control like any other: what somebody may see or do is decided
// there. It is also the OAuth 2.0 authorization server of exactly one client, the JupyterHub.
package portal

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/httpapi"
)

// Settings are what an administrator chooses; they may change while the portal runs.
type Settings struct {
	URL  string // the portal's for people, such as http://localhost:8000; "" is wherever they have come to
	Hub  string // JupyterHub's likewise; "" if there is none
	Pool string // where sessions are opened that name no pool
	OIDC *OIDC  // nil where only passwords do
	// ClientID and ClientSecret are what JupyterHub shows at the token endpoint.
	ClientID, ClientSecret string
}

// Options is what a Portal is made of.
type Options struct {
	Control  *control.Control
	API      *httpapi.Server
	Settings func(context.Context) (Settings, error)
	Key      []byte // from which what the portal signs is derived; the same after a restart
	Log      *slog.Logger
}

// Portal is the web pages and the login.
type Portal struct {
	Options
	pages    http.Handler
	grants   *grants
	foreign  *foreign
	audience audience
	now      func() time.Time
}

// New makes a Portal.
func New(o Options) (*Portal, error) {
	if len(o.Key) < 16 {
		return nil, fmt.Errorf("make portal: its key is too short")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Portal{Options: o, grants: newGrants(), now: time.Now}
	p.foreign = newForeign()
	p.pages = p.routes()
	return p, nil
}

// Handler serves people and programs that come to the server itself.
func (p *Portal) Handler() http.Handler { return p.handler(false) }

// DoorHandler serves what a door has passed on: its headers say who asks, and how. Nobody else may
// reach it.
func (p *Portal) DoorHandler() http.Handler { return p.handler(true) }

func (p *Portal) handler(door bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := cameBy(r, door)
		// Where a login is not wanted, so is no name: machines ask under another.
		switch path := r.URL.Path; {
		case path == "/api/v1" || strings.HasPrefix(path, "/api/v1/") || path == "/healthz":
			p.serveAPI(w, r, v)
			return
		case path == "/oauth/token":
			p.token(w, r)
			return
		case path == "/oauth/userinfo":
			p.userinfo(w, r)
			return
		}
		s, err := p.Settings(r.Context())
		if err != nil {
			p.Log.Error("read the portal's settings", "err", err)
			http.Error(w, "The server failed to do this; its log says more.", http.StatusInternalServerError)
			return
		}
		if v.settings = s; !v.known(p.Control.HostNames) {
			http.Error(w, "This server has another name.", http.StatusMisdirectedRequest)
			return
		}
		p.pages.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitKey{}, v)))
	})
}

func (p *Portal) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.doLogin)
	mux.HandleFunc("GET /login/oidc", p.toProvider)
	mux.HandleFunc("GET "+oidcCallback, p.fromProvider)
	mux.HandleFunc("GET /oauth/authorize", p.authorize)
	mux.HandleFunc("GET /assets/{file}", p.asset)
	mux.HandleFunc("/", p.missing)
	show := func(path, name string, find finder) { mux.HandleFunc("GET "+path, p.page(name, find)) }
	alive := func(path, name string, find finder) {
		show(path, name, find)
		mux.HandleFunc("GET "+livePath(path), p.live(name, find))
	}
	do := func(path string, fn func(http.ResponseWriter, *http.Request, *member)) {
		mux.HandleFunc("POST "+path, p.member(fn))
	}
	mux.HandleFunc("GET /logout", p.askLogout)
	do("/logout", p.logout)
	do("/logout/everywhere", p.logoutEverywhere)
	p.deviceRoutes(mux)

	alive("/{$}", "home", p.findHome)
	do("/sessions/{id}/keep", p.keepSession)
	do("/sessions/{id}/close", p.closeSession)
	mux.HandleFunc("GET /terminal/open", p.member(p.terminal))

	alive("/jobs", "jobs", p.findJobs)
	show("/jobs/new", "submit", p.findSubmit)
	do("/jobs", p.submit)
	show("/jobs/{id}", "job", p.findJobAndLog)
	mux.HandleFunc("GET /live/jobs/{id}", p.live("job", p.findJob))
	do("/jobs/{id}/cancel", p.cancelJob)

	show("/account", "account", p.findAccount)
	do("/account/password", p.setPassword)
	do("/account/keys", p.addKey)
	do("/account/keys/remove", p.removeKey)
	do("/account/tokens", p.addToken)
	do("/account/tokens/{id}/revoke", p.revokeToken)
	do("/account/browsers/{id}/end", p.endBrowser)
	show("/bill", "bill", p.findBill)
	alive("/events", "events", p.findEvents)

	alive("/pools", "pools", admins(p.findPools))
	alive("/machines", "machines", admins(p.findMachines))
	alive("/machines/{name}", "machine", admins(p.findMachine))
	do("/machines/{name}/cordon", p.cordon(true))
	do("/machines/{name}/uncordon", p.cordon(false))
	do("/machines/{name}/drain", p.drain)
	alive("/people", "people", admins(p.findPeople))
	do("/people", p.addPerson)
	return mux
}

// livePath is where the changes of a page are sent.
func livePath(path string) string {
	if path == "/{$}" || path == "/" {
		return "/live/home"
	}
	return "/live" + path
}
