// Package webdoor is the web door: an HTTP reverse proxy that JupyterHub drives as its proxy, through
// the REST API of configurable-http-proxy 5, whose behaviours it keeps. Routes are found by path, or by
// host and path; bodies and WebSockets pass without being gathered, for as long as they take.
//
// Where it is stricter than its model, it is so because users do not trust each other: a path that
// some program could read as another route's is refused, what clients say in X-Forwarded-* is replaced,
// a route leads only where Resolve lets it, and a request whose head is not plain is refused.
//
// [Proxy] and [Server] serve whatever else is to be carried; [Door] adds the routes.
package webdoor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/dspool/dspool"
)

// Options say how a door behaves.
type Options struct {
	Log *slog.Logger // nil discards
	// Resolve says where a route's target is. An error refuses the route, with its sentence, or the
	// request. It is asked for every request, because services move. nil takes targets as they are.
	Resolve func(target *url.URL) (Upstream, error)
	// HostRouting takes the first element of a route's path for a host.
	HostRouting bool
	// Default is the target of the route "/" at the start, where there is no other; nil for none.
	Default *url.URL
	// ErrorTarget is asked for error pages, GET ErrorTarget/CODE?url=PATH, and resolved like a route's.
	ErrorTarget *url.URL
	// ErrorPages has pages to send where ErrorTarget has none: CODE.html or error.html. nil takes the
	// door's own.
	ErrorPages fs.FS
	// DropTargetPath leaves a target's own path out of what is asked for; DropPrefix the route's.
	DropTargetPath, DropPrefix bool
	// Trusts says which addresses are proxies in front of the door, whose X-Forwarded-* are passed on;
	// nil trusts none.
	Trusts func(netip.Addr) bool
	// Journal is a file in which routes outlive the process; "" keeps none.
	Journal string
	// Inherit is what another door's HandOver returned; it counts before the journal.
	Inherit []byte
	// Watch hears of WebSockets; it must not block.
	Watch func(Traffic)
	// RecheckEvery is how often the upstream of a WebSocket is asked, with the credentials that opened it,
	// for RecheckPath below the route; where it refuses, the WebSocket ends. 0 never asks.
	RecheckEvery time.Duration
	RecheckPath  string
}

// Traffic tells of a WebSocket, at its beginning and, with Closed set, at its end.
type Traffic struct {
	Route          Route
	Client         string // address and port, as the door saw them
	Path           string // without the query, which may have secrets
	Opened, Closed time.Time
	Sent, Received int64 // bytes to and from the client, known at the end
}

// Door routes requests. Make it with New.
type Door struct {
	Options
	proxy Proxy
	table *table

	mu      sync.Mutex // changes of routes, with their journal
	journal *journal
	handed  bool
}

// New returns a door with the routes that the journal has, or that another door has handed over.
func New(o Options) (*Door, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolve == nil {
		o.Resolve = Direct
	}
	if o.ErrorPages == nil {
		o.ErrorPages = ownPages
	}
	d := &Door{Options: o, table: newTable(o.HostRouting)}
	d.proxy.Trusts = o.Trusts
	if err := d.load(); err != nil {
		return nil, err
	}
	if o.Default != nil && d.table.get("/") == nil {
		data, err := json.Marshal(map[string]string{"target": o.Default.String()})
		if err != nil {
			return nil, err
		}
		if err := d.Add("/", data); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// Routes lists the routes, by path.
func (d *Door) Routes() []Route {
	all := d.table.all()
	routes := make([]Route, len(all))
	for i, r := range all {
		routes[i] = r.Route
	}
	return routes
}

// WebSockets is how many are open.
func (d *Door) WebSockets() int { return d.proxy.tunnels.count() }

// Close ends WebSockets and idle connections, and writes the journal anew.
func (d *Door) Close() error {
	d.proxy.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.journal == nil {
		return nil
	}
	err := errors.Join(d.journal.compact(d.table.all()), d.journal.close())
	d.journal = nil
	return err
}

// Add adds the route at a path, or changes where it leads. Data is a JSON object whose "target" is a
// URL; the rest is kept for those who list routes.
func (d *Door) Add(path string, data json.RawMessage) error {
	r, err := d.newRoute(path, data)
	if err != nil {
		return err
	}
	if _, err := d.Resolve(r.target); err != nil {
		return dspool.Errorf(dspool.ErrorCode(err), "the route %.200q cannot lead to %.200q: %w", r.Path, r.Target, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.handed {
		return errHanded
	}
	d.table.put(r)
	r.Meter.Note()
	if d.journal != nil {
		if err := d.journal.add(r, d.table); err != nil {
			d.Log.Error("a route is not in the journal", "route", r.Path, "error", err)
		}
	}
	return nil
}

// Remove removes a route; found says whether there was one. What is open through it goes on.
func (d *Door) Remove(path string) (found bool, err error) {
	path = cleanRoute(path)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.handed {
		return false, errHanded
	}
	if !d.table.drop(path) {
		return false, nil
	}
	if d.journal != nil {
		if err := d.journal.remove(path, d.table); err != nil {
			d.Log.Error("a route's end is not in the journal", "route", path, "error", err)
		}
	}
	return true, nil
}

var errHanded = dspool.Errorf(dspool.Unavailable, "another process keeps this door's routes now")

// newRoute checks a route.
func (d *Door) newRoute(path string, data json.RawMessage) (*route, error) {
	path = cleanRoute(path)
	if err := checkRoute(path); err != nil {
		return nil, err
	}
	fields, err := parseObject(data)
	if err != nil {
		return nil, dspool.Errorf(dspool.Invalid, "Body not valid JSON: %w", err)
	}
	r := &route{Route: Route{Path: path}}
	for _, f := range fields {
		switch f.name {
		case lastActivity: // the door's to say
			continue
		case hostField:
			if d.HostRouting {
				continue
			}
		case "target":
			r.Target = ""
			if json.Unmarshal(f.value, &r.Target) != nil || string(f.value) == "null" {
				r.Target = ""
			}
		}
		r.fields = append(r.fields, f)
	}
	if r.Target == "" {
		return nil, dspool.Errorf(dspool.Invalid, "Must specify 'target' as string")
	}
	if r.target, err = url.Parse(r.Target); err != nil || r.target.Host == "" {
		return nil, dspool.Errorf(dspool.Invalid, "the target %.200q is no URL with a host", r.Target)
	}
	r.Data = writeObject(r.fields)
	return r, nil
}

// healthPath answers whoever wants to know that the door is there, as configurable-http-proxy does.
const healthPath = "/_chp_healthz"

// Handler serves the public side.
func (d *Door) Handler() http.Handler { return http.HandlerFunc(d.serve) }

func (d *Door) serve(w http.ResponseWriter, r *http.Request) {
	if r.RequestURI == healthPath {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"OK"}`))
		return
	}
	if r.Method == http.MethodConnect {
		d.refuse(w, http.StatusMethodNotAllowed, "this door carries requests, not connections")
		return
	}
	raw := r.URL.EscapedPath()
	to, ambiguous := d.table.match(r.Host, raw)
	switch {
	case ambiguous:
		d.Log.Warn("refused a path that leads to several routes", "path", short(raw), "client", r.RemoteAddr)
		d.refuse(w, http.StatusBadRequest, "this path can be read in several ways: write it without encoded slashes, dots, backslashes and semicolons")
		return
	case to == nil:
		d.fail(w, r, http.StatusNotFound, nil)
		return
	}
	call, err := d.call(to, r, raw)
	if err != nil {
		d.Log.Warn("a route leads nowhere", "route", to.Path, "target", to.Target, "error", err)
		d.fail(w, r, http.StatusBadGateway, err)
		return
	}
	if err := d.proxy.Forward(w, r, call); err != nil {
		d.Log.Warn("an upstream does not answer", "route", to.Path, "path", short(raw), "error", short(err.Error()))
		d.fail(w, r, http.StatusServiceUnavailable, err)
		linger(w, r)
	}
}

// call says what to ask a route's upstream.
func (d *Door) call(to *route, r *http.Request, raw string) (Call, error) {
	up, err := d.Resolve(to.target)
	if err != nil {
		return Call{}, err
	}
	path, base := safeTarget(raw), to.target
	if d.DropPrefix {
		path = dropPrefix(path, to.Path, d.HostRouting)
	}
	if d.DropTargetPath {
		base = nil
	}
	call := Call{To: up, Scope: to.target.Host, Target: joinTarget(base, path, safeTarget(r.URL.RawQuery)), Meter: to.Meter}
	call.Tunnel = func(end func()) func(sent, received int64) {
		stop := func() {}
		if d.RecheckEvery > 0 {
			stop = d.recheck(to, r, end)
		}
		t := Traffic{Route: to.Route, Client: r.RemoteAddr, Path: raw, Opened: time.Now()}
		if d.Watch != nil {
			d.Watch(t)
		}
		return func(sent, received int64) {
			stop()
			if d.Watch != nil {
				t.Closed, t.Sent, t.Received = time.Now(), sent, received
				d.Watch(t)
			}
		}
	}
	return call, nil
}

// dropPrefix removes as many elements from a path as its route has.
func dropPrefix(path, route string, hosts bool) string {
	rest := trimSlashes(route)
	if hosts {
		_, rest = cutElement(rest)
	}
	for rest != "" {
		_, rest = cutElement(rest)
		_, path = cutElement(trimLeft(path))
		path = "/" + path
	}
	return path
}

func trimLeft(path string) string {
	for len(path) > 0 && path[0] == '/' {
		path = path[1:]
	}
	return path
}

// Direct takes a target as it is: http, https, or http+unix with the socket's path as an escaped host.
// It is for those who trust whoever adds routes.
func Direct(target *url.URL) (Upstream, error) {
	port := target.Port()
	switch target.Scheme {
	case "http":
		return Upstream{Network: "tcp", Address: hostPort(target.Hostname(), cmp.Or(port, "80"))}, nil
	case "https":
		return Upstream{Network: "tcp", Address: hostPort(target.Hostname(), cmp.Or(port, "443")), TLS: &plainTLS}, nil
	case "http+unix", "unix+http":
		return Upstream{Network: "unix", Address: target.Host}, nil
	}
	return Upstream{}, dspool.Errorf(dspool.Invalid, "the scheme %.20q is not http, https or http+unix", target.Scheme)
}

// short is a part of a URL for a log, which nobody may fill.
func short(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "… " + strconv.Itoa(len(s)) + " bytes"
	}
	return s
}

func (d *Door) load() error {
	entries, err := readInherited(d.Inherit)
	if err != nil {
		return fmt.Errorf("read the routes of the other door: %w", err)
	}
	if d.Journal != "" {
		old, j, err := openJournal(d.Journal, d.Log)
		if err != nil {
			return fmt.Errorf("open the journal of routes: %w", err)
		}
		d.journal = j
		if d.Inherit == nil {
			entries = old
		}
	}
	for _, e := range entries {
		r, err := d.newRoute(e.Path, e.Data)
		if err != nil {
			d.Log.Warn("left out a route of the journal", "error", err)
			continue
		}
		d.table.put(r)
		r.Meter.NoteAt(time.UnixMilli(e.Active))
	}
	if d.journal != nil {
		if err := d.journal.compact(d.table.all()); err != nil {
			return errors.Join(fmt.Errorf("write the journal of routes: %w", err), d.journal.close())
		}
	}
	return nil
}
