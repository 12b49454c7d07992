package control

import (
	"context"
	"strconv"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// mayApp says whether somebody may do something with an app. The hub's own is no spawner's but the hub's.
func mayApp(who auth.Subject, a auth.Action, app store.AppRow) bool {
	if app.User == dspool.HubUser && !who.Admin && who.User != app.User {
		return false
	}
	return auth.CanOld(who, a, auth.App, app.User, app.UID)
}

func seenApp(tx *store.Tx, who auth.Subject, id int64) (store.AppRow, error) {
	a, err := tx.App(id)
	if dspool.ErrorCode(err) == dspool.NotFound || err == nil && !mayApp(who, auth.See, a) {
		return store.AppRow{}, hidden("app", strconv.FormatInt(id, 10))
	}
	return a, err
}

// showApp is an app as people see it; a spawner sees it as the app's user does.
func (c *Control) showApp(who auth.Subject, a store.AppRow) dspool.App {
	if who.Spawner {
		who.User = a.User
	}
	a.Reason = showOf(who, a.User, a.Reason)
	if a.State == dspool.AppRunning {
		a.URL = c.doorURL(strconv.FormatInt(a.ID, 10) + ".app")
	}
	return a.App
}

func (c *Control) shownApp(tx *store.Tx, who auth.Subject, id int64) (dspool.App, error) {
	a, err := tx.App(id)
	return c.showApp(who, a), err
}

// AppQuery selects apps; All also those that have ended.
type AppQuery struct {
	User   string
	All    bool
	Before int64
	Limit  int
}

// ListApps lists apps, newest first: a user's own, those that a spawner or an administrator chooses.
func (c *Control) ListApps(ctx context.Context, who auth.Subject, q AppQuery) (list api.List[dspool.App], err error) {
	list.Items = []dspool.App{}
	f := store.AppFilter{User: q.User, All: q.All, Before: q.Before}
	if !auth.Can(who, auth.See, auth.App, f.User) {
		if f.User != "" {
			return list, nil
		}
		f.User = who.User
	}
	limit := pageSize(q.Limit)
	f.Limit = limit + 1
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		for {
			rows, err := tx.Apps(f)
			if err != nil {
				return err
			}
			for _, a := range rows {
				f.Before = a.ID
				if !mayApp(who, auth.See, a) {
					continue
				}
				if list.More = len(list.Items) == limit; list.More {
					return nil
				}
				list.Items = append(list.Items, c.showApp(who, a))
			}
			if len(rows) < f.Limit {
				return nil
			}
		}
	})
	return list, err
}

// App shows one app.
func (c *Control) App(ctx context.Context, who auth.Subject, id int64) (out dspool.App, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		a, err := seenApp(tx, who, id)
		out = c.showApp(who, a)
		return err
	})
	return out, err
}

// StopApp ends an app; one that has ended stays as it is.
func (c *Control) StopApp(ctx context.Context, who auth.Subject, id int64) (out dspool.App, err error) {
	err = c.write(ctx, func(w *work) error {
		a, err := seenApp(w.Tx, who, id)
		if err != nil {
			return err
		}
		if !mayApp(who, auth.Change, a) {
			return forbid("stop others' apps")
		}
		if err := w.stopApp(a, dspool.Why(dspool.WhyAppStopped, dspool.ReasonParams{By: who.Name()})); err != nil {
			return err
		}
		out, err = c.shownApp(w.Tx, who, id)
		return err
	})
	return out, err
}
