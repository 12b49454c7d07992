package webdoor

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Route is where requests for a path, or for a host and a path, go.
type Route struct {
	Path   string          // "/user/ada"; with host routing the first element is the host
	Target string          // URL
	Data   json.RawMessage // all that was said when the route was added, an object that has the target too
	Meter  *Meter          // what has passed
}

// route is a Route that requests use.
type route struct {
	Route
	target *url.URL
	fields []field // of Data, in their order
}

type field struct {
	name  string
	value json.RawMessage
}

// Fields that the door itself says about a route; the host only with host routing.
const (
	lastActivity = "last_activity"
	hostField    = "host"
)

// table has the routes by path, and by the beginnings of paths.
type table struct {
	hosts bool // the first element is a host

	mu     sync.RWMutex
	byPath map[string]*route
	root   trie
}

func newTable(hosts bool) *table { return &table{hosts: hosts, byPath: map[string]*route{}} }

// key is a route's path as the trie knows it: hosts have no case.
func (t *table) key(path string) string {
	if !t.hosts {
		return path
	}
	host, rest := cutElement(strings.TrimPrefix(path, "/"))
	return "/" + hostOnly(host) + "/" + rest
}

// put adds a route or takes the place of the one that was there, whose counts it keeps.
func (t *table) put(r *route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.byPath[r.Path]; old != nil && r.Meter == nil {
		r.Meter = old.Meter
	}
	if r.Meter == nil {
		r.Meter = &Meter{}
	}
	t.byPath[r.Path] = r
	t.root.add(t.key(r.Path), r)
}

func (t *table) drop(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byPath[path] == nil {
		return false
	}
	delete(t.byPath, path)
	t.root.remove(t.key(path))
	return true
}

func (t *table) get(path string) *route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byPath[path]
}

// all is sorted by path.
func (t *table) all() []*route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	routes := slices.Collect(maps.Values(t.byPath))
	slices.SortFunc(routes, func(a, b *route) int { return strings.Compare(a.Path, b.Path) })
	return routes
}

// match finds the route of a request for host and raw, a path as sent. It is nil where there is none;
// ambiguous says that programs could read the path as that of another route.
func (t *table) match(host, raw string) (found *route, ambiguous bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	root := &t.root
	var above *route
	if t.hosts {
		above = root.route
		if root = root.child(hostOnly(host)); root == nil {
			return above, false
		}
	}
	find := func(path string) *route {
		if r := root.find(path); r != nil {
			return r
		}
		return above
	}
	if isPlain(raw) {
		return find(raw), false
	}
	first := true
	same := readings(raw, func(path string) bool {
		r := find(path)
		if first {
			found, first = r, false
		}
		return r == found
	})
	return found, !same
}

// since lists the routes that have not been used since a time; zero lists all.
func (t *table) since(when time.Time) []*route {
	routes := t.all()
	if when.IsZero() {
		return routes
	}
	return slices.DeleteFunc(routes, func(r *route) bool { return !r.Meter.LastActivity().Before(when) })
}

func (t *table) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byPath)
}
