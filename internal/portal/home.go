package portal

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

// homePage is what somebody has, and may begin.
type homePage struct {
	Sessions []dspool.Session
	Apps     map[int64][]dspool.App // that run, by session
	Places   []place
	Jobs     []dspool.Job
	Free     int64
	FreeOK   bool
	Problems []dspool.Reason // for administrators
}

// place is a pool to work in.
type place struct {
	api.PoolStatus
	Offers []offer // a size each, in the pool's order
	Mine   bool    // where one lands who names none
}

// Choice says whether there is a size to choose.
func (p place) Choice() bool { return len(p.Offers) > 1 }

// offer is a size of a pool's machines, with what a person pays for an hour of their part of one.
type offer struct {
	dspool.Size
	Part float64
	// Asked is the size that links name. Where one chooses, that is also the first: any ready machine
	// would do for who names none, and the price beside the link would not be the one that is paid.
	Asked string
}

// offers are the sizes of a pool, of all that there are.
func offers(pool dspool.Pool, sizes []dspool.Size) (list []offer) {
	for _, name := range pool.Sizes {
		i := slices.IndexFunc(sizes, func(s dspool.Size) bool { return s.Name == name })
		if i < 0 {
			continue
		}
		o := offer{Size: sizes[i], Part: sizes[i].Price / float64(max(pool.Policy.SessionsPerMachine, 1))}
		if len(pool.Sizes) > 1 {
			o.Asked = name
		}
		list = append(list, o)
	}
	return list
}

func (p *Portal) findHome(ctx context.Context, _ *http.Request, m *member) (any, error) {
	c, who := p.Control, m.Who
	h := homePage{Apps: map[int64][]dspool.App{}}
	sessions, err := c.ListSessions(ctx, who, control.SessionQuery{User: who.User, Limit: 50})
	if err != nil {
		return nil, err
	}
	h.Sessions = sessions.Items
	apps, err := c.ListApps(ctx, who, control.AppQuery{User: who.User, Limit: 100})
	if err != nil {
		return nil, err
	}
	for _, a := range apps.Items {
		h.Apps[a.Session] = append(h.Apps[a.Session], a)
	}
	if h.Places, err = p.places(ctx, m); err != nil {
		return nil, err
	}
	jobs, err := c.Jobs(ctx, who, control.JobQuery{User: who.User, Limit: 5})
	if err != nil {
		return nil, err
	}
	h.Jobs = jobs.Items
	if h.Free, h.FreeOK, err = c.HomeSpace(ctx); err != nil {
		return nil, err
	}
	if who.Admin {
		s, err := c.Status(ctx, who)
		if err != nil {
			return nil, err
		}
		h.Problems = s.Problems
	}
	return h, nil
}

// places are the pools that people work in, the own one first.
func (p *Portal) places(ctx context.Context, m *member) (list []place, err error) {
	pools, err := p.Control.Pools(ctx, m.Who)
	if err != nil {
		return nil, err
	}
	sizes, err := p.Control.Sizes(ctx)
	if err != nil {
		return nil, err
	}
	user, err := p.Control.User(ctx, m.Who, m.Who.User)
	if err != nil {
		return nil, err
	}
	mine := user.DefaultPool
	if mine == "" {
		mine = m.settings.Pool
	}
	for _, pool := range pools.Items {
		if pool.Runs != "" || pool.Kind != dspool.Interactive && pool.Name != mine && pool.Name != m.settings.Pool {
			continue
		}
		list = append(list, place{PoolStatus: pool, Offers: offers(pool.Pool, sizes.Items), Mine: pool.Name == mine})
	}
	slices.SortStableFunc(list, func(a, b place) int {
		switch {
		case a.Mine == b.Mine:
			return 0
		case a.Mine:
			return -1
		}
		return 1
	})
	return list, nil
}

func (p *Portal) keepSession(w http.ResponseWriter, r *http.Request, m *member) {
	id, err := number(r, "id")
	var d dspool.Duration
	if err == nil {
		d, err = dspool.ParseDuration(r.PostForm.Get("for"))
	}
	if err == nil {
		_, err = p.Control.KeepSession(r.Context(), m.Who, id, time.Duration(d))
	}
	p.done(w, r, m, err, "/")
}

func (p *Portal) closeSession(w http.ResponseWriter, r *http.Request, m *member) {
	id, err := number(r, "id")
	if err == nil {
		_, err = p.Control.CloseSession(r.Context(), m.Who, id)
	}
	p.done(w, r, m, err, "/")
}

// done leads on after a form, or shows why it came to nothing.
func (p *Portal) done(w http.ResponseWriter, r *http.Request, m *member, err error, to string) {
	if err != nil {
		p.fail(w, r, m, err)
		return
	}
	redirect(w, to)
}

// number is a number in the request's path.
func number(r *http.Request, name string) (int64, error) {
	n, err := strconv.ParseInt(r.PathValue(name), 10, 64)
	if err != nil || n < 0 {
		return 0, dspool.Errorf(dspool.NotFound, "the portal has no page %s", dspool.Quote(r.URL.Path))
	}
	return n, nil
}

// asked is a number in the request's query; what is none is the fallback.
func asked(r *http.Request, name string, fallback int64) int64 {
	n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
	if err != nil {
		return fallback
	}
	return n
}
