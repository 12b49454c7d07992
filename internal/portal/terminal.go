package portal

import (
	"context"
	"net/http"
	"net/url"

	"github.com/dspool/dspool"
)

type terminalPage struct {
	Pool   string
	Places []place
	Reader bool // for screen readers
}

func (p *Portal) findTerminal(ctx context.Context, r *http.Request, m *member) (any, error) {
	page := terminalPage{Pool: r.URL.Query().Get("pool"), Reader: r.URL.Query().Has("reader")}
	if page.Pool != "" {
		if _, err := p.Control.Pool(ctx, m.Who, page.Pool); err != nil {
			return nil, err
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
		redirect(w, m.settings.URL+"/terminal/open?"+url.Values{"pool": {r.URL.Query().Get("pool")}}.Encode())
	default:
		p.fail(w, r, m, dspool.Errorf(dspool.Unavailable, "terminals open at a web door, and this server has none").
			WithHint("add one under doors in team.yaml, or come in by ssh"))
	}
}
