package control

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/asuser"
	"github.com/dspool/dspool/internal/plan"
	"github.com/dspool/dspool/internal/store"
)

// enactSessions writes down what the plan says of sessions.
func (d *Decision) enactSessions(p plan.Plan) error {
	for _, seat := range p.Seat {
		s, err := d.Session(seat.Session)
		if err != nil {
			return err
		}
		if s.State != dspool.SessionWaiting {
			continue
		}
		m, err := d.Machine(seat.Machine)
		if err != nil {
			return err
		}
		now := d.Now()
		s.State, s.Machine, s.Request, s.Share, s.Placed = dspool.SessionPlaced, seat.Machine, seat.Request, seat.Request.Share(m.Resources), &now
		s.Reason, s.Position = seat.Reason, 0
		if err := d.UpdateSession(s); err != nil {
			return err
		}
		if err := d.TouchRevision(s.ID); err != nil {
			return err
		}
		d.wake(TopicMachine(seat.Machine), TopicSession(s.ID))
		err = d.event(dspool.Event{
			Actor: planner, Kind: "session.placed", Pool: s.Pool, Machine: s.Machine, User: s.User,
			Message: fmt.Sprintf("session %d of %s gets %s", s.ID, s.User, s.Machine), Reason: seat.Reason,
		})
		if err != nil {
			return err
		}
	}
	for _, cl := range p.Close {
		s, err := d.Session(cl.Session)
		if err != nil {
			return err
		}
		if err := d.closeSession(&s, cl.Reason); err != nil {
			return err
		}
	}
	for _, q := range p.Queue {
		s, err := d.Session(q.Session)
		if err != nil {
			return err
		}
		if s.State == dspool.SessionWaiting && (!s.Reason.Equal(q.Reason) || s.Position != q.Position) {
			s.Reason, s.Position = q.Reason, q.Position
			if err := d.UpdateSession(s); err != nil {
				return err
			}
			d.wake(TopicSession(s.ID))
		}
	}
	return nil
}

// sessionDirectives makes what a machine needs to know of sessions on it.
func (c *Control) sessionDirectives(tx *store.Tx, rows []store.SessionRow) ([]api.SessionDirective, error) {
	var out []api.SessionDirective
	if len(rows) == 0 {
		return nil, nil
	}
	accounts := accountsOf(tx)
	for _, s := range rows {
		d := api.SessionDirective{ID: s.ID, Request: s.Request, Close: !s.Close.IsZero(), Reason: toUser(s.User, s.Close)}
		var err error
		if d.Account, err = accounts.of(s.User, s.UID); err != nil {
			return nil, err
		}
		if d.Apps, err = c.appDirectives(tx, s); err != nil {
			return nil, err
		}
		pool, err := tx.Pool(s.Pool)
		if dspool.ErrorCode(err) == dspool.NotFound { // it has been removed, and nothing but the end is wanted
			out = append(out, d)
			continue
		} else if err != nil {
			return nil, err
		}
		d.Sudo, d.Rights = pool.Policy.Sudo, rightsOf(d.Account)
		if d.Links, err = homeLinks(tx, pool, s.User); err != nil {
			return nil, err
		}
		if d.Motd, err = c.motd(tx, pool, s); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// appDirectives are the apps that are to run in a session, and those that are to end: its machine may not
// have begun with them.
func (c *Control) appDirectives(tx *store.Tx, s store.SessionRow) (out []api.AppDirective, err error) {
	if !s.Close.IsZero() {
		return nil, nil
	}
	apps, err := tx.AppsOf(s.ID)
	if err != nil {
		return nil, err
	}
	for _, a := range apps {
		if a.State == dspool.AppStopping {
			out = append(out, api.AppDirective{ID: a.ID, Name: a.Name, Command: []string{}, Stop: true})
		}
		if a.State != dspool.AppStarting && a.State != dspool.AppRunning {
			continue
		}
		spec, err := tx.AppSpec(a.ID)
		if err != nil {
			return nil, err
		}
		if a.User == dspool.HubUser {
			if spec.Env, err = c.withSecrets(spec.Env); err != nil {
				return nil, err
			}
		}
		out = append(out, api.AppDirective{
			ID: a.ID, Name: a.Name, Command: spec.Command, Env: spec.Env, Dir: spec.Dir, Restart: a.Restart, Kernels: spec.Kernels, Token: spec.Token,
		})
	}
	return out, nil
}

// notebooksFolder is the folder of the share of jobs in which users keep notebooks.
const notebooksFolder = "notebooks"

// homeLinks are the links that a home has: every share by its name, and the user's notebooks.
func homeLinks(tx *store.Tx, pool dspool.Pool, user string) ([]api.Link, error) {
	jobs, err := tx.Setting(settingJobsShare)
	if err != nil {
		return nil, err
	}
	var links []api.Link
	for _, name := range pool.Shares {
		share, err := tx.Share(name)
		if err != nil {
			return nil, err
		}
		if share.Mount == dspool.HomeMount {
			continue
		}
		links = append(links, api.Link{Path: name, Target: share.Mount})
		if name == jobs {
			links = append(links, api.Link{Path: "notebooks/remote", Target: path.Join(share.Mount, notebooksFolder, user), MakeTarget: true})
		}
	}
	return links, nil
}

// motd is what a user reads at a terminal on a machine.
func (c *Control) motd(tx *store.Tx, pool dspool.Pool, s store.SessionRow) (string, error) {
	m, err := tx.Machine(s.Machine)
	if err != nil {
		return "", err
	}
	idle := cmp.Or(time.Duration(pool.Policy.SessionIdle), time.Hour)
	space := ""
	shares, err := (&work{Tx: tx}).homeShares()
	if err != nil {
		return "", err
	}
	for _, home := range shares {
		if free, ok := c.spaces.free(home.Path); ok && slices.Contains(pool.Shares, home.Name) {
			space = fmt.Sprintf(" %s are free for homes.", dspool.FormatBytes(free))
		}
	}
	return fmt.Sprintf("%s, pool %s: %s for you, of %s.\nYour home and the shares are the same on every machine.%s\n"+
		"With nobody connected and nothing running, this session ends after %s.\n"+
		"To keep it: leave something running (tmux, nohup), or from your own computer: dspool session keep\n",
		m.Name, pool.Name, s.Request, m.Resources, space, dspool.Duration(idle)), nil
}

// makeSessionTrees makes the home and the folder of notebooks of a user.
func (c *Control) makeSessionTrees(ctx context.Context, user dspool.User, pool string) error {
	var t trees
	err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		t, err = (&work{Tx: tx}).treesOf(user, pool)
		return err
	})
	if err != nil {
		return err
	}
	if err := t.make(); err != nil {
		return err
	}
	root, err := openShare(t.jobs)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirOwned(asuser.Cred{}, notebooksFolder, 0o755); err != nil {
		return fmt.Errorf("make folder of notebooks on share %s: %w", t.jobs.Name, err)
	}
	if err := root.MkdirOwned(ownerOf(user), notebooksFolder+"/"+user.Name, 0o700); err != nil {
		return fmt.Errorf("make folder of %s's notebooks on share %s: %w", user.Name, t.jobs.Name, err)
	}
	return nil
}

// sessionsReported takes an agent's word on the sessions of its own machine.
func (w *work) sessionsReported(machine string, reports []api.SessionReport) error {
	for _, r := range reports {
		s, err := w.Session(r.ID)
		if dspool.ErrorCode(err) == dspool.NotFound {
			continue
		} else if err != nil {
			return err
		}
		if s.Machine != machine || s.State == dspool.SessionClosed {
			continue
		}
		switch {
		case r.State == dspool.SessionClosed:
			why := s.Close
			if !r.Failed.IsZero() {
				why = heard(r.Failed, s.User)
			}
			if why.IsZero() && s.State != dspool.SessionClosing {
				why = dspool.Reason{Code: dspool.WhyEndedByMachine}
			}
			if err := w.endSession(&s, why, w.Now()); err != nil {
				return err
			}
		case r.State == dspool.SessionOpen:
			if s.State != dspool.SessionClosing {
				if s, err = w.sessionOpen(s, r); err != nil {
					return err
				}
			}
			if err := w.appsReported(s, r.Apps); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *work) sessionOpen(s store.SessionRow, r api.SessionReport) (store.SessionRow, error) {
	opened := s.State == dspool.SessionPlaced
	activity := heard(r.Activity, s.User)
	told := r.Rights != "" && r.Rights != s.Rights
	if told {
		s.Rights = dspool.Clip(r.Rights)
	}
	// When it was last active is worth a write when the verdict changes, or now and then.
	if !opened && !told && s.Active == r.Active && s.Activity.Equal(activity) && (!r.Active || w.Now().Sub(s.LastActive) < seenEvery) {
		return s, nil
	}
	s.Active, s.Activity = r.Active, activity
	if r.Active || opened {
		s.LastActive = w.Now()
	}
	if opened {
		now := w.Now()
		s.State, s.Opened, s.Reason = dspool.SessionOpen, &now, dspool.Reason{}
	}
	w.wake(TopicSession(s.ID), topicPlan)
	if err := w.UpdateSession(s); err != nil || !opened {
		return s, err
	}
	return s, w.startApps(s)
}

// closeSessionsOf ends the sessions of a machine that is no more since a time.
func (w *work) closeSessionsOf(machine string, why dspool.Reason, at time.Time) error {
	rows, err := w.OpenSessions()
	if err != nil {
		return err
	}
	for _, s := range rows {
		if s.Machine == machine {
			if err := w.endSession(&s, why, at); err != nil {
				return err
			}
		}
	}
	return nil
}
