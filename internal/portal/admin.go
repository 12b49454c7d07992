package portal

import (
	"context"
	"net/http"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/control"
)

const (
	machinesPage = 200
	peoplePage   = 100
	eventsPage   = 100
	billRows     = 200
)

// admins lets only administrators find a page. To others it is not there.
func admins(find finder) finder {
	return func(ctx context.Context, r *http.Request, m *member) (any, error) {
		if !m.Who.Admin {
			return nil, dspool.Errorf(dspool.NotFound, "the portal has no page %s", dspool.Quote(r.URL.Path))
		}
		return find(ctx, r, m)
	}
}

type poolsPage struct {
	Pools  []api.PoolStatus
	Status api.Status
	Events []dspool.Event // with the plan's reasons, newest first
}

func (p *Portal) findPools(ctx context.Context, _ *http.Request, m *member) (any, error) {
	status, err := p.Control.Status(ctx, m.Who)
	if err != nil {
		return nil, err
	}
	events, err := p.Control.Events(ctx, m.Who, control.EventQuery{Latest: true, Limit: 200})
	page := poolsPage{Pools: status.Pools, Status: status}
	for i := len(events.Items) - 1; i >= 0 && len(page.Events) < 20; i-- {
		if e := events.Items[i]; !e.Reason.IsZero() && e.Pool != "" {
			page.Events = append(page.Events, e)
		}
	}
	return page, err
}

type machinesList struct {
	Items     []dspool.Machine
	More, All bool
}

func (p *Portal) findMachines(ctx context.Context, r *http.Request, m *member) (any, error) {
	page := machinesList{All: r.URL.Query().Has("all")}
	list, err := p.Control.Machines(ctx, m.Who, "", page.All)
	page.Items, page.More = list.Items, list.More
	if len(page.Items) > machinesPage {
		page.Items, page.More = page.Items[:machinesPage], true
	}
	return page, err
}

func (p *Portal) findMachine(ctx context.Context, r *http.Request, m *member) (any, error) {
	return p.Control.Machine(ctx, m.Who, r.PathValue("name"))
}

func (p *Portal) cordon(on bool) func(http.ResponseWriter, *http.Request, *member) {
	return func(w http.ResponseWriter, r *http.Request, m *member) {
		name := r.PathValue("name")
		_, err := p.Control.Cordon(r.Context(), m.Who, name, on)
		p.done(w, r, m, err, "/machines/"+name)
	}
}

func (p *Portal) drain(w http.ResponseWriter, r *http.Request, m *member) {
	name := r.PathValue("name")
	var d dspool.Duration
	var err error
	if v := r.PostForm.Get("deadline"); v != "" {
		d, err = dspool.ParseDuration(v)
	}
	if err == nil {
		_, err = p.Control.Drain(r.Context(), m.Who, name, time.Duration(d))
	}
	p.done(w, r, m, err, "/machines/"+name)
}

type peopleList struct {
	Users    []dspool.User
	Sessions map[string][]dspool.Session
	After    string // the last one's name, where there are more
}

func (p *Portal) findPeople(ctx context.Context, r *http.Request, m *member) (any, error) {
	users, err := p.Control.Users(ctx, m.Who)
	if err != nil {
		return nil, err
	}
	page := peopleList{Sessions: map[string][]dspool.Session{}}
	for _, u := range users.Items { // in order of name
		if u.Name <= r.URL.Query().Get("after") {
			continue
		}
		if len(page.Users) == peoplePage {
			page.After = page.Users[peoplePage-1].Name
			break
		}
		page.Users = append(page.Users, u)
	}
	sessions, err := p.Control.ListSessions(ctx, m.Who, control.SessionQuery{Limit: 1000})
	for _, s := range sessions.Items {
		page.Sessions[s.User] = append(page.Sessions[s.User], s)
	}
	return page, err
}

func (p *Portal) addPerson(w http.ResponseWriter, r *http.Request, m *member) {
	_, err := p.Control.AddUser(r.Context(), m.Who, api.AddUserRequest{Name: r.PostForm.Get("name"), Admin: r.PostForm.Get("admin") != ""})
	p.done(w, r, m, err, "/people")
}

type eventsList struct {
	Items []dspool.Event // newest first
	After int64
}

func (p *Portal) findEvents(ctx context.Context, _ *http.Request, m *member) (any, error) {
	list, err := p.Control.Events(ctx, m.Who, control.EventQuery{Latest: true, Limit: eventsPage})
	page := eventsList{}
	for i := len(list.Items) - 1; i >= 0; i-- {
		page.Items = append(page.Items, list.Items[i])
	}
	return page, err
}

type billPage struct {
	api.Usage
	Month, Before, After string // such as 2026-03
	More                 bool
}

// findBill is the bill of a month: a user's own, an administrator's everybody's.
func (p *Portal) findBill(ctx context.Context, r *http.Request, m *member) (any, error) {
	const form = "2006-01"
	now := p.now().UTC()
	month, err := time.Parse(form, r.URL.Query().Get("month"))
	if err != nil || month.After(now) || month.Year() < 2000 {
		month = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	by := r.URL.Query().Get("by")
	if by != "pool" && by != "user" {
		by = "job"
	}
	next := month.AddDate(0, 1, 0)
	page := billPage{Month: month.Format(form), Before: month.AddDate(0, -1, 0).Format(form)}
	if next.Before(now) {
		page.After = next.Format(form)
	}
	if page.Usage, err = p.Control.Usage(ctx, m.Who, by, month, next); err != nil {
		return nil, err
	}
	if page.More = len(page.Rows) > billRows; page.More {
		page.Rows = page.Rows[:billRows]
	}
	return page, nil
}
