package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webdoor"
	"github.com/dspool/dspool/internal/webtls"
)

// Names by which machines reach what the machine door leads to. None of them is a machine's.
const (
	zone      = "dspool.internal"
	apiName   = "api." + zone
	hubName   = "hub." + zone
	proxyName = "proxy." + zone
	appSuffix = ".app." + zone // after an app's number
)

// appPatience is how long the server's word on an app that has just begun to run may take.
const appPatience = 5 * time.Second

// loginLook is how often notebook servers are asked whether those who have WebSockets are still logged in;
// they remember JupyterHub's word for a minute themselves.
const loginLook = 30 * time.Second

// errorPages is where JupyterHub shows what went wrong.
var errorPages = &url.URL{Scheme: "http", Host: hubName, Path: "/hub/error"}

// web keeps the web doors and the machine door.
type web struct {
	g       *gateway
	portal  http.Handler
	audit   *audience
	tls     *webtls.Source
	machine webdoor.Proxy // what machines send to each other through the machine door

	mu      sync.Mutex
	now     api.Web
	proxies []netip.Prefix // in front of the doors
	changed chan struct{}  // closed and replaced with every apply
	routes  *webdoor.Door
	servers map[*webdoor.Server]bool
	left    bool // the doors are another gateway's
}

// newWeb begins with the routes that an older gateway hands over, or else with those of the journal.
func newWeb(g *gateway, dir string, routes []byte) (*web, error) {
	w := &web{g: g, changed: make(chan struct{}), servers: map[*webdoor.Server]bool{}, portal: newPortal(g), audit: newAudience(g)}
	var err error
	w.routes, err = webdoor.New(webdoor.Options{
		Log: g.Log, Resolve: w.resolve, HostRouting: true, ErrorTarget: errorPages, Trusts: w.trusts,
		Journal: filepath.Join(dir, "routes"), Inherit: routes, Watch: w.audit.watch,
		RecheckEvery: loginLook, RecheckPath: "/api/me",
	})
	if err != nil {
		return nil, fmt.Errorf("open the web door's routes: %w", err)
	}
	w.tls = webtls.New(webtls.Options{
		Dir: filepath.Join(dir, "acme"), Log: g.Log,
		Sign: func(ctx context.Context, names []string, csr string) (string, error) {
			out, err := g.server.WebCertificate(ctx, api.WebCertificate{Names: names, CSR: csr})
			return out.Certificate, err
		},
	})
	return w, nil
}

// withMachineDoor are all doors that a gateway keeps.
func withMachineDoor(d api.GatewayDirectives) []dspool.Door {
	if d.Web.MachineDoor == "" {
		return d.Doors
	}
	return append(d.Doors[:len(d.Doors):len(d.Doors)], dspool.Door{Listen: d.Web.MachineDoor, Protocol: protocolMachine})
}

func (w *web) apply(now api.Web, doors []dspool.Door) {
	if err := w.tls.Set(now, doors); err != nil {
		w.g.Log.Error("take certificates of web doors", "err", err) // the old ones stay
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now, w.proxies = now, nil
	for _, s := range now.TrustedProxies {
		if p, err := netip.ParsePrefix(s); err == nil {
			w.proxies = append(w.proxies, p)
		}
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *web) state() (api.Web, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now, w.changed
}

// trusts says whether an address is that of a proxy in front of the doors.
func (w *web) trusts(a netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.proxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// accept serves a door until its listener is closed; requests that have begun go on.
func (w *web) accept(l net.Listener, door dspool.Door) {
	now, _ := w.state()
	handler := w.people(door)
	if door.Protocol == protocolMachine {
		handler = http.HandlerFunc(w.machines)
	}
	srv := webdoor.NewServer(w.counted(handler), w.g.Log)
	w.mu.Lock()
	if w.left {
		w.mu.Unlock()
		return
	}
	w.servers[srv] = true
	w.mu.Unlock()
	var config *tls.Config
	if door.Protocol == dspool.ProtocolWeb && !now.Plain(door.Listen) {
		l, config = w.tls.Listen(l), w.tls.Config()
	}
	if err := srv.Serve(l, config); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		w.g.Log.Error("serve a door", "listen", door.Listen, "err", err)
	}
}

// counted keeps this process alive while a request lasts, and so as long as a WebSocket does.
func (w *web) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.g.serving.Add(1)
		defer w.g.serving.Done()
		h.ServeHTTP(rw, r)
	})
}

// leave lets requests finish once the listeners are closed: whoever keeps a connection asks the next
// gateway, what streams and WebSockets carry goes on here.
func (w *web) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = true
	for srv := range w.servers {
		// As long as this waits, the requests that it waits for may count themselves.
		w.g.serving.Go(func() { _ = srv.Shutdown(w.g.ctx) })
	}
	clear(w.servers)
}

// stop ends everything.
func (w *web) stop() {
	w.mu.Lock()
	w.left = true
	for srv := range w.servers {
		srv.Close()
	}
	clear(w.servers)
	w.mu.Unlock()
	w.machine.Close()
	if err := w.routes.Close(); err != nil {
		w.g.Log.Error("close the web door's routes", "err", err)
	}
	w.tls.Close()
}

// people serves browsers: every name is an origin of its own.
func (w *web) people(door dspool.Door) http.Handler {
	routes := w.routes.Handler()
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		now, _ := w.state()
		host := hostOf(r)
		switch {
		case host == now.Domain && r.URL.Path == terminalPath:
			w.terminal(rw, r, door.Pool)
		case host == now.Domain:
			w.portal.ServeHTTP(rw, r)
		case host == "hub."+now.Domain:
			if _, proto := w.origin(r); !foreign(rw, r) && !cleared(rw, r, host, proto) {
				routes.ServeHTTP(rw, r)
			}
		case strings.HasSuffix(host, ".hub."+now.Domain):
			routes.ServeHTTP(rw, r)
		default:
			stranger(rw, r, now, door)
		}
	})
}

// hostOf is the name by which a browser asks, in lower case, without port.
func hostOf(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// stranger answers a request for a name that is nobody's: who came by the bare address is shown to JupyterHub.
func stranger(rw http.ResponseWriter, r *http.Request, now api.Web, door dspool.Door) {
	ip, err := netip.ParseAddr(strings.Trim(hostOf(r), "[]"))
	if err != nil || !ip.IsValid() || now.Hubs == "" || r.Method != http.MethodGet && r.Method != http.MethodHead || r.URL.Path != "/" {
		http.Error(rw, "This door serves "+now.Domain+" and names below it.", http.StatusMisdirectedRequest)
		return
	}
	http.Redirect(rw, r, now.Hubs+"/", http.StatusFound)
}

// resolve turns the target of a route into where it leads: JupyterHub or a running app, and nowhere else.
func (w *web) resolve(target *url.URL) (webdoor.Upstream, error) {
	now, _ := w.state()
	name := strings.ToLower(target.Hostname())
	if target.Scheme != "http" {
		return webdoor.Upstream{}, dspool.Errorf(dspool.Invalid, "%s is no target of this proxy", dspool.Quote(target.Redacted()))
	}
	if name == hubName {
		return webdoor.Upstream{Network: "tcp", Address: now.Hub}, nil
	}
	id, ok := appNumber(name)
	if !ok {
		return webdoor.Upstream{}, dspool.Errorf(dspool.Invalid, "%s is no target of this proxy", dspool.Quote(target.Redacted())).
			WithHint("only JupyterHub and apps are: http://%s and http://NUMBER%s", hubName, appSuffix)
	}
	for _, a := range now.Apps {
		if a.ID == id {
			return upstream(a, api.OwnersPort), nil
		}
	}
	return webdoor.Upstream{Network: "tcp"}, nil // known by form, not running now
}

func appNumber(name string) (int64, bool) {
	digits, ok := strings.CutSuffix(name, appSuffix)
	id, err := strconv.ParseInt(digits, 10, 64)
	return id, ok && err == nil && id > 0 && digits[0] != '+' && digits[0] != '0'
}

// app is where an app runs. The server's word on one that has just started may still be on its way.
func (w *web) app(ctx context.Context, id int64) (webdoor.Upstream, bool) {
	ctx, cancel := context.WithTimeout(ctx, appPatience)
	defer cancel()
	for {
		now, changed := w.state()
		for _, a := range now.Apps {
			if a.ID == id {
				return upstream(a, api.OwnersPort), true
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return webdoor.Upstream{}, false
		}
	}
}
