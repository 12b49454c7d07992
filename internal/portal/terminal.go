package portal

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/dspool/dspool"
)

type terminalPage struct {
	Pool, Size string
	Places     []place
	Reader     bool // for screen readers
}

func (p *Portal) findTerminal(ctx context.Context, r *http.Request, m *member) (any, error) {
	q := r.URL.Query()
	page := terminalPage{Pool: q.Get("pool"), Size: q.Get("size"), Reader: q.Has("reader")}
	if page.Pool != "" { // else whoever opens the session knows the pool
		pool, err := p.Control.Pool(ctx, m.Who, page.Pool)
		if err != nil {
			return nil, err
		}
		if page.Size != "" && !slices.Contains(pool.Sizes, page.Size) {
			return nil, dspool.Errorf(dspool.Invalid, "pool %s has no size %s", pool.Name, dspool.Quote(page.Size)).
				WithHint("its sizes: %s", strings.Join(pool.Sizes, ", "))
		}
	}
	var err error
	page.Places, err = p.places(ctx, m)
	return page, err
}

// terminal shows the page of a terminal. Its WebSocket is the web door's: who has come to the server itself
// is led there.
func (p *Portal) terminal(w http.ResponseWriter, r *http.Request, m *member) {
	switch {
	case m.door:
		p.page("terminal", p.findTerminal)(w, r)
	case m.settings.URL != "":
		q := url.Values{"pool": {r.URL.Query().Get("pool")}}
		if size := r.URL.Query().Get("size"); size != "" {
			q.Set("size", size)
		}
		redirect(w, m.settings.URL+"/terminal/open?"+q.Encode())
	default:
		p.fail(w, r, m, dspool.Errorf(dspool.Unavailable, "terminals open at a web door, and this server has none").
			WithHint("add one under doors in team.yaml, or come in by ssh"))
	}
}
