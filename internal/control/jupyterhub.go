package control

import (
	"context"
	"crypto/subtle"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

const (
	hubApp        = "hub"
	settingHubUID = "jupyterhub.uid" // of its account: a person may have had the name before it was reserved
)

// HubClient is what JupyterHub is called where the portal lets people in.
const HubClient = "jupyterhub"

// isHub says whether a secret is the hub's. It counts while a pool runs JupyterHub.
func (c *Control) isHub(tx *store.Tx, secret string) (bool, error) {
	s, err := c.HubSecrets()
	if err != nil || subtle.ConstantTimeCompare([]byte(s.Token), []byte(secret)) != 1 {
		return false, err
	}
	pool, err := hubPool(tx)
	return pool != nil, err
}

// hubPool is the pool that runs JupyterHub; nil if there is none.
func hubPool(tx *store.Tx) (*dspool.Pool, error) {
	pools, err := tx.Pools()
	i := slices.IndexFunc(pools, func(p dspool.Pool) bool { return p.Runs == dspool.RunsJupyterHub })
	if i < 0 {
		return nil, err
	}
	return &pools[i], err
}

// ownAccount refuses changes of the server's own account by anybody: nobody logs in as it.
func ownAccount(name string) error {
	if name != dspool.HubUser {
		return nil
	}
	return dspool.Errorf(dspool.Invalid, "%s is the server's own account", name).WithHint("it is there for pools that run JupyterHub")
}

// EnsureHub makes sure that JupyterHub is wanted in the pool that runs it, as its settings say, and nowhere
// else. Where it cannot be, Status says why.
func (c *Control) EnsureHub(ctx context.Context) error {
	err := c.ensureHub(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.jupyter.note(err) {
		return err
	}
	return nil
}

func (c *Control) ensureHub(ctx context.Context) error {
	var h hubNow
	err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		h, err = c.hubNow(tx)
		return err
	})
	if err != nil || h.rightly() || !h.changed() && !c.jupyter.may(time.Now()) {
		return err
	}
	if h.pool != nil {
		if err := c.makeHubHome(ctx, *h.pool); err != nil {
			return err
		}
	}
	return c.write(ctx, func(w *work) error {
		h, err := c.hubNow(w.Tx)
		if err != nil {
			return err
		}
		for _, s := range h.elsewhere {
			if err := w.closeSession(&s, dspool.Why(dspool.WhyNoHub, dspool.ReasonParams{Pool: s.Pool})); err != nil {
				return err
			}
		}
		if h.rightly() || h.pool == nil {
			return nil
		}
		user, err := w.User(dspool.HubUser)
		if err != nil {
			return err
		}
		s, err := w.sessionFor(user, h.pool.Name, "")
		if err != nil {
			return err
		}
		row := store.AppRow{Restart: true, Spec: h.spec}
		row.Name = hubApp
		return w.addApp("server", s, &row)
	})
}

// hubNow is how JupyterHub stands.
type hubNow struct {
	pool      *dspool.Pool // that is to run it; nil if none is
	spec      store.AppSpec
	elsewhere []store.SessionRow // of it that should not be
	closing   bool               // its last session is still being ended
	app       *store.AppRow      // that is wanted now
	same      bool               // app runs spec
}

// rightly says whether nothing is to be done.
func (h hubNow) rightly() bool {
	return len(h.elsewhere) == 0 && (h.pool == nil || h.closing || h.app != nil && h.same)
}

// changed says whether what is to be done comes from the settings, and not from a hub that has ended.
func (h hubNow) changed() bool { return len(h.elsewhere) > 0 || h.app != nil && !h.same }

func (c *Control) hubNow(tx *store.Tx) (h hubNow, err error) {
	if h.pool, err = hubPool(tx); err != nil {
		return h, err
	}
	sessions, err := tx.Sessions(store.SessionFilter{User: dspool.HubUser})
	if err != nil {
		return h, err
	}
	ours, err := hubUID(tx)
	if err != nil {
		return h, err
	}
	for _, s := range sessions {
		switch {
		case ours == 0 || s.UID != ours:
		case h.pool != nil && s.Pool == h.pool.Name:
			h.closing = s.State == dspool.SessionClosing
			if err := h.find(tx, s.ID); err != nil {
				return h, err
			}
		case s.State != dspool.SessionClosing:
			h.elsewhere = append(h.elsewhere, s)
		}
	}
	if h.pool == nil {
		return h, nil
	}
	if h.spec, err = c.hubSpec(tx); err != nil || h.app == nil {
		return h, err
	}
	spec, err := tx.AppSpec(h.app.ID)
	h.same = reflect.DeepEqual(spec, h.spec)
	return h, err
}

func (h *hubNow) find(tx *store.Tx, session int64) error {
	apps, err := tx.AppsOf(session)
	for _, a := range apps {
		if a.Name == hubApp && a.State != dspool.AppStopping {
			h.app = &a
		}
	}
	return err
}

// hubUID is the id of the hub's account; 0 if it was never made.
func hubUID(tx *store.Tx) (int, error) {
	text, err := tx.Setting(settingHubUID)
	if err != nil || text == "" {
		return 0, err
	}
	uid, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("read setting %s: %w", settingHubUID, err)
	}
	return uid, nil
}

// makeHubHome makes the hub's account and its home, where its database lies.
func (c *Control) makeHubHome(ctx context.Context, pool dspool.Pool) error {
	var user dspool.User
	var homes []dspool.Share
	look := func(tx *store.Tx) (err error) {
		uid, err := hubUID(tx)
		if err != nil {
			return err
		}
		if user, err = tx.User(dspool.HubUser); err == nil && user.UID != uid {
			return dspool.Errorf(dspool.Conflict, "a person has the account %s, which is the server's own now", user.Name).WithHint("move the files and remove the account: dspool user remove %s", user.Name)
		}
		return err
	}
	err := c.Store.Read(ctx, func(tx *store.Tx) error {
		for _, name := range pool.Shares {
			s, err := tx.Share(name)
			if err != nil {
				return err
			}
			if s.Mount == dspool.HomeMount {
				homes = append(homes, s)
			}
		}
		return look(tx)
	})
	if dspool.ErrorCode(err) == dspool.NotFound {
		err = c.write(ctx, func(w *work) error {
			if err := look(w.Tx); dspool.ErrorCode(err) != dspool.NotFound {
				return err
			}
			ids, err := w.uidRange()
			if err != nil {
				return err
			}
			if user, err = w.AddUser(dspool.HubUser, false, ids); err != nil {
				return err
			}
			if err := w.SetSetting(settingHubUID, strconv.Itoa(user.UID)); err != nil {
				return err
			}
			return w.event(dspool.Event{
				Actor: "server", Kind: "user.added", User: user.Name, Message: fmt.Sprintf("user %s added with id %d, for JupyterHub", user.Name, user.UID),
			})
		})
	}
	if err != nil {
		return err
	}
	return makeHome(user, homes)
}
