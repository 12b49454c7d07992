package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/dspool/dspool/api"
)

const (
	reportEvery = 5 * time.Second // the server is promised 10
	mostReports = 1000            // in one request
	mostEnded   = 100_000         // that wait for a server that is away
)

// reports tells the server how connections stand. What ended while the server was away is kept.
type reports struct {
	g    *gateway
	mu   sync.Mutex
	gone []api.ConnectionReport
	wake chan struct{}
}

func newReports(g *gateway) *reports { return &reports{g: g, wake: make(chan struct{}, 1)} }

// ended reports a connection for the last time, at once.
func (r *reports) ended(c *conn) { r.over(c.report(true)) }

func (r *reports) over(last api.ConnectionReport) {
	r.mu.Lock()
	if len(r.gone) < mostEnded {
		r.gone = append(r.gone, last)
	}
	r.mu.Unlock()
	r.soon()
}

// soon has the server told at once.
func (r *reports) soon() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reports) run(ctx context.Context) {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for {
		var list []api.ConnectionReport
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			for _, c := range r.g.all() {
				list = append(list, c.report(false))
			}
			list = append(list, r.g.web.audit.reports()...)
		case <-r.wake:
		}
		r.send(ctx, list)
	}
}

func (r *reports) send(ctx context.Context, open []api.ConnectionReport) {
	// What ended must have been known first.
	if err := r.g.web.audit.tell(ctx); err != nil {
		r.g.Log.Debug("record connections of browsers", "err", err)
		return
	}
	for ctx.Err() == nil {
		r.mu.Lock()
		n := min(len(r.gone), mostReports)
		list := append([]api.ConnectionReport(nil), r.gone[:n]...)
		r.mu.Unlock()
		m := min(len(open), mostReports-n)
		list, open = append(list, open[:m]...), open[m:]
		if len(list) == 0 {
			return
		}
		if err := r.g.server.Report(ctx, list); err != nil {
			r.g.Log.Debug("report connections", "err", err)
			return // the ended ones are told again with the next beat
		}
		r.mu.Lock()
		r.gone = append([]api.ConnectionReport(nil), r.gone[n:]...)
		r.mu.Unlock()
	}
}

// flush tells the last that is to be told, if the server is there.
func (r *reports) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	r.send(ctx, nil)
}
