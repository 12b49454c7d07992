package gateway

import (
	"context"
	"crypto/rand"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/webdoor"
)

// audience knows the browsers that have WebSockets to apps. A browser, that is an address and an app, is one
// connection of the app's session, from its first WebSocket to its last.
type audience struct {
	g *gateway

	mu   sync.Mutex
	open map[viewerKey]*viewer
	news []api.WebConnection // not told yet
}

type viewerKey struct {
	app  int64
	from string
}

type viewer struct {
	id      string
	meter   *webdoor.Meter
	sockets int
	in, out int64 // bytes of WebSockets that have closed
}

const mostViewers = 10_000 // of which the server is told

func newAudience(g *gateway) *audience {
	return &audience{g: g, open: map[viewerKey]*viewer{}}
}

// watch hears of the web door's WebSockets.
func (a *audience) watch(t webdoor.Traffic) {
	target, err := url.Parse(t.Route.Target)
	if err != nil {
		return
	}
	id, ok := appNumber(strings.ToLower(target.Hostname()))
	from, _, err := net.SplitHostPort(t.Client)
	if !ok || err != nil {
		return
	}
	key := viewerKey{id, from}
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.open[key]
	switch {
	case t.Closed.IsZero() && v == nil && len(a.open) < mostViewers:
		v = &viewer{id: strings.ToLower(rand.Text()), meter: t.Route.Meter}
		a.open[key] = v
		a.news = append(a.news, api.WebConnection{ID: v.id, App: id, From: t.Client})
		a.g.reports.soon()
		fallthrough
	case t.Closed.IsZero() && v != nil:
		v.sockets++
	case v != nil:
		v.in += t.Received
		v.out += t.Sent
		if v.sockets--; v.sockets == 0 {
			delete(a.open, key)
			a.g.reports.over(v.report(true))
		}
	}
}

func (v *viewer) report(ended bool) api.ConnectionReport {
	r := api.ConnectionReport{ID: v.id, BytesIn: v.in, BytesOut: v.out, LastInput: v.meter.LastActivity(), Ended: ended}
	if ended {
		r.Why = dspool.Reason{Code: dspool.WhyTabClosed}
	}
	return r
}

// tell records the new ones at the server; what it does not take is told again.
func (a *audience) tell(ctx context.Context) error {
	a.mu.Lock()
	news := append([]api.WebConnection(nil), a.news...)
	a.mu.Unlock()
	if len(news) == 0 {
		return nil
	}
	if err := a.g.server.WebConnections(ctx, news); err != nil {
		return err
	}
	a.mu.Lock()
	a.news = append([]api.WebConnection(nil), a.news[len(news):]...)
	a.mu.Unlock()
	return nil
}

// reports are how all stand.
func (a *audience) reports() (list []api.ConnectionReport) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, v := range a.open {
		list = append(list, v.report(false))
	}
	return list
}
