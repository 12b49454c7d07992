package control

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// TopicApp is the topic of an app.
func TopicApp(id int64) string { return "app " + strconv.FormatInt(id, 10) }

// mostApps is how many apps a session may have at once.
const mostApps = 50

// awaitClosing is how long somebody who wants an app waits for the end of the session before.
const awaitClosing = 30 * time.Second

// WantApp has an app run in a user's session, which is opened if there is none. One of that name that
// runs there is ended first.
func (c *Control) WantApp(ctx context.Context, who auth.Subject, req api.AppRequest) (out dspool.App, err error) {
	user, pool, err := c.appPlace(ctx, who, req)
	if err != nil {
		return out, err
	}
	if err := checkApp(req); err != nil {
		return out, err
	}
	if err := c.makeSessionTrees(ctx, user, pool); err != nil {
		return out, err
	}
	late := time.NewTimer(awaitClosing)
	defer late.Stop()
	for {
		var closing <-chan struct{}
		err = c.write(ctx, func(w *work) error {
			if user, err = w.User(user.Name); err != nil { // removed meanwhile
				return err
			}
			s, err := w.sessionFor(user, pool, req.Size)
			if err != nil {
				if s.State == dspool.SessionClosing {
					closing = c.Changed(TopicSession(s.ID))
				}
				return err
			}
			row := store.AppRow{Spec: store.AppSpec{Command: req.Command, Env: req.Env, Dir: req.Dir, Kernels: req.Kernels, Token: req.Token}}
			row.Name = req.Name
			if err := w.addApp(who.Name(), s, &row); err != nil {
				return err
			}
			out, err = c.shownApp(w.Tx, who, row.ID)
			return err
		})
		if closing == nil {
			return out, err
		}
		select {
		case <-closing:
		case <-late.C:
			return out, err
		case <-ctx.Done():
			return out, ctx.Err()
		case <-c.base.Done():
			return out, err
		}
	}
}

// appPlace says as whom and in which pool an app is to run.
func (c *Control) appPlace(ctx context.Context, who auth.Subject, req api.AppRequest) (user dspool.User, pool string, err error) {
	name := cmp.Or(req.User, who.User)
	if req.User == "" && (who.User == "" || who.Spawner) {
		return user, "", dspool.Errorf(dspool.Invalid, "no user is named").WithHint("name the user whose session it should run in")
	}
	if !auth.Can(who, auth.Use, auth.App, name) {
		return user, "", dspool.Errorf(dspool.Forbidden, "only administrators and spawners may run apps for others").WithHint("leave out the user")
	}
	if name == dspool.HubUser {
		return user, "", dspool.Errorf(dspool.Invalid, "%s is the server's own account", name).WithHint("name a person's")
	}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		w := &work{Tx: tx}
		if user, err = w.User(name); dspool.ErrorCode(err) == dspool.NotFound {
			return dspool.Errorf(dspool.Invalid, "there is no user %s", dspool.Quote(name)).WithHint("an administrator makes one: dspool user add")
		} else if err != nil {
			return err
		}
		doors, err := doorsOf(tx)
		if err != nil {
			return err
		}
		door := ""
		if i := slices.IndexFunc(doors, func(d dspool.Door) bool { return d.Protocol == dspool.ProtocolWeb }); i >= 0 {
			door = doors[i].Pool
		}
		fallback, err := w.Setting(settingPool)
		if err != nil {
			return err
		}
		p, err := w.poolForPeople(cmp.Or(req.Pool, user.DefaultPool, door, fallback))
		pool = p.Name
		return err
	})
	return user, pool, err
}

// checkApp refuses an app that could never be right.
func checkApp(req api.AppRequest) error {
	if err := dspool.CheckName("app", req.Name); err != nil {
		return err
	}
	if err := (dspool.JobSpec{Command: req.Command, Env: req.Env}).Check(); err != nil {
		return err
	}
	if req.Dir != "" && (path.IsAbs(req.Dir) || path.Clean(req.Dir) != req.Dir || req.Dir == ".." || strings.HasPrefix(req.Dir, "../") || strings.ContainsRune(req.Dir, 0) || len(req.Dir) > 4096) {
		return dspool.Errorf(dspool.Invalid, "the directory %s is not below the home", dspool.Quote(req.Dir)).WithHint("a path that begins at the home, such as work/course")
	}
	if req.Kernels != "" && (!strings.HasPrefix(req.Kernels, "/") || len(req.Kernels) > 1024 || strings.ContainsFunc(req.Kernels, func(r rune) bool { return r <= ' ' || r > '~' })) {
		return dspool.Errorf(dspool.Invalid, "kernels %s is no path", dspool.Quote(req.Kernels)).WithHint("such as /user/ada/api")
	}
	if len(req.Token) > 1024 || strings.ContainsFunc(req.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return dspool.Errorf(dspool.Invalid, "the token is no token").WithHint("printable ASCII, at most 1024 characters")
	}
	return nil
}

// addApp writes down that an app is wanted in a session, and begins the end of one that it replaces.
func (w *work) addApp(actor string, s store.SessionRow, row *store.AppRow) error {
	there, err := w.AppsOf(s.ID)
	if err != nil {
		return err
	}
	if len(there) >= mostApps {
		return dspool.Errorf(dspool.Conflict, "session %d has %d apps already", s.ID, len(there)).WithHint("stop some: dspool app stop")
	}
	for _, a := range there {
		if a.Name == row.Name {
			if err := w.stopApp(a, dspool.Reason{Code: dspool.WhyAppReplaced}); err != nil {
				return err
			}
		}
	}
	row.User, row.UID, row.Pool, row.Session = s.User, s.UID, s.Pool, s.ID
	if err := w.InsertApp(row); err != nil {
		return err
	}
	s.LastActive = w.Now()
	if err := w.UpdateSession(s); err != nil {
		return err
	}
	w.wake(topicPlan, TopicSession(s.ID))
	err = w.event(dspool.Event{
		Actor: actor, Kind: "app.wanted", Pool: s.Pool, Machine: s.Machine, User: s.User, Message: fmt.Sprintf("app %s of %s is wanted", row.Name, s.User),
	})
	if err != nil {
		return err
	}
	return w.startApps(s)
}

// startApps tells the machine of an open session of the apps that wait for it, but for those whose
// predecessor is not gone yet.
func (w *work) startApps(s store.SessionRow) error {
	if s.State != dspool.SessionOpen {
		return nil
	}
	apps, err := w.AppsOf(s.ID)
	if err != nil {
		return err
	}
	told := false
	for _, a := range apps {
		if a.State != dspool.AppWaiting || slices.ContainsFunc(apps, func(b store.AppRow) bool { return b.Name == a.Name && b.State == dspool.AppStopping }) {
			continue
		}
		a.State, a.Reason = dspool.AppStarting, dspool.Reason{}
		if err := w.moveApp(a); err != nil {
			return err
		}
		told = true
	}
	if !told {
		return nil
	}
	return w.redirect(s)
}

// redirect has a session's machine look at what is wanted of it.
func (w *work) redirect(s store.SessionRow) error {
	if s.Machine == "" || s.State == dspool.SessionClosed {
		return nil
	}
	w.wake(TopicMachine(s.Machine))
	return w.TouchRevision(s.ID)
}

// moveApp writes an app's state down and tells those who wait for it.
func (w *work) moveApp(a store.AppRow) error {
	w.wake(TopicApp(a.ID), topicPlan)
	if a.State != dspool.AppStarting || a.Started != nil || a.User == dspool.HubUser {
		w.wake(topicGateway) // it listens, or does no more
	}
	return w.UpdateApp(a)
}

// stopApp begins an app's end: at once where its machine has not been told of it.
func (w *work) stopApp(a store.AppRow, why dspool.Reason) error {
	switch a.State {
	case dspool.AppWaiting:
		return w.endApp(a, why, nil)
	case dspool.AppStarting, dspool.AppRunning:
		a.State, a.Reason, a.Port = dspool.AppStopping, why, 0
		if err := w.moveApp(a); err != nil {
			return err
		}
		s, err := w.Session(a.Session)
		if err != nil {
			return err
		}
		return w.redirect(s)
	}
	return nil
}

// endApp records that nothing is left of an app.
func (w *work) endApp(a store.AppRow, why dspool.Reason, exit *int) error {
	return w.appEnded(a, why, why, exit)
}

// appDied is endApp for one that ended by itself: its last words are for its user, and in no event.
func (w *work) appDied(a store.AppRow, said dspool.Reason, exit *int) error {
	why := dspool.Reason{Code: dspool.WhyAppSelf}
	if exit != nil {
		why = dspool.Why(dspool.WhyExitCode, dspool.ReasonParams{Count: int64(*exit)})
	}
	return w.appEnded(a, said, why, exit)
}

func (w *work) appEnded(a store.AppRow, why, fact dspool.Reason, exit *int) error {
	a.State, a.Reason, a.ExitCode, a.Port = dspool.AppEnded, why, exit, 0
	if err := w.moveApp(a); err != nil {
		return err
	}
	return w.event(dspool.Event{
		Actor: "server", Kind: "app.ended", Pool: a.Pool, Machine: a.Machine, User: a.User, Message: fmt.Sprintf("app %s of %s ended", a.Name, a.User), Reason: fact,
	})
}

// endApps ends all apps of a session that has ended.
func (w *work) endApps(session int64, why dspool.Reason) error {
	apps, err := w.AppsOf(session)
	if err != nil {
		return err
	}
	for _, a := range apps {
		reason := dspool.Reason{Code: dspool.WhySessionEnded}.With(why)
		if a.State == dspool.AppStopping {
			reason = a.Reason
		}
		if err := w.endApp(a, reason, nil); err != nil {
			return err
		}
	}
	return nil
}

// stopApps begins the end of all apps of a session that is to end.
func (w *work) stopApps(session int64, why dspool.Reason) error {
	apps, err := w.AppsOf(session)
	if err != nil {
		return err
	}
	for _, a := range apps {
		if err := w.stopApp(a, dspool.Reason{Code: dspool.WhySessionEnds}.With(why)); err != nil {
			return err
		}
	}
	return nil
}
