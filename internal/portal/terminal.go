package portal

import (
	"context"
	"net/http"

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

// openTerminal passes a terminal's WebSocket on to the gateway. Whose it is and that the portal's own page
// asks is looked at here, too: a WebSocket needs what a page needs.
func (p *Portal) openTerminal(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r)
	m, err := p.login(r, v)
	switch {
	case err != nil:
		p.fail(w, r, nil, err)
	case !v.sameOrigin(r):
		p.fail(w, r, nil, errForeign)
	case m == nil:
		p.fail(w, r, nil, dspool.Errorf(dspool.Unauthenticated, "you are not logged in").WithHint("log in, and open the terminal again"))
	case p.Terminal == nil:
		p.fail(w, r, m, dspool.Errorf(dspool.Unavailable, "terminals open at the web door"))
	default:
		p.Terminal.ServeHTTP(w, r)
	}
}
