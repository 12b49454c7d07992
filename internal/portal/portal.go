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
	Terminal http.Handler // takes WebSockets of terminals; nil where the door before the portal does
	Settings func(context.Context) (Settings, error)
	Key      []byte // from which what the portal signs is derived; the same after a restart
	Log      *slog.Logger
}

// Portal is the web pages and the login.
type Portal struct {
	Options
	pages   http.Handler
	grants  *grants
	foreign *foreign
	now     func() time.Time
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
	mux.HandleFunc("POST /logout", p.member(p.logout))
	mux.HandleFunc("POST /logout/everywhere", p.member(p.logoutEverywhere))
	mux.HandleFunc("GET /login/oidc", p.toProvider)
	mux.HandleFunc("GET /login/oidc/callback", p.fromProvider)
	mux.HandleFunc("GET /oauth/authorize", p.authorize)
	mux.HandleFunc("GET /assets/{file}", p.asset)
	mux.HandleFunc("GET /{$}", p.member(p.home))
	mux.HandleFunc("/", p.missing)
	return mux
}
