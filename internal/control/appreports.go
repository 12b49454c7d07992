package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/store"
)

// lowestPort is the first that a user can listen on.
const lowestPort = 1024

// appsReported takes an agent's word on the apps of a session on its own machine. A machine's root is
// not trusted: it speaks of its own sessions' apps only, and what was not asked of it counts for nothing.
func (w *work) appsReported(s store.SessionRow, reports []api.AppReport) error {
	if len(reports) > 2*mostApps {
		return dspool.Errorf(dspool.Invalid, "the report is about %d apps of a session", len(reports)).WithHint("at most %d", 2*mostApps)
	}
	ended := false
	for _, r := range reports {
		a, err := w.App(r.ID)
		if dspool.ErrorCode(err) == dspool.NotFound {
			continue
		} else if err != nil {
			return err
		}
		if a.Session != s.ID {
			continue
		}
		if a.State == dspool.AppEnded {
			continue
		}
		if err := w.appReported(a, r); err != nil {
			return err
		}
		ended = ended || r.State == dspool.AppEnded
	}
	if !ended {
		return nil
	}
	// The machine may forget what has ended, and begin what waited for that.
	if err := w.startApps(s); err != nil {
		return err
	}
	return w.redirect(s)
}

func (w *work) appReported(a store.AppRow, r api.AppReport) error {
	switch {
	case a.State == dspool.AppWaiting: // its machine does not know of it
		return nil
	case r.State == dspool.AppEnded:
		exit := r.ExitCode
		if exit != nil && (*exit < 0 || *exit > 255) {
			exit = nil
		}
		why, err := w.lastWords(a, r.Reason)
		if err != nil {
			return err
		}
		if a.State == dspool.AppStopping {
			return w.endApp(a, a.Reason, exit)
		}
		return w.appDied(a, why, exit)
	case a.State == dspool.AppStopping:
		return nil
	case r.State == dspool.AppRunning && r.Port >= lowestPort && r.Port <= 65535:
		return w.appListens(a, r.Port)
	case r.State == dspool.AppStarting:
		why, err := w.lastWords(a, r.Reason)
		if err != nil {
			return err
		}
		began := a.State == dspool.AppRunning
		if !began && a.Reason.Equal(why) {
			return nil
		}
		a.State, a.Reason, a.Port = dspool.AppStarting, why, 0
		if err := w.moveApp(a); err != nil || !began {
			return err
		}
		return w.event(dspool.Event{
			Actor: "machine " + a.Machine, Kind: "app.restarted", Pool: a.Pool, Machine: a.Machine, User: a.User, Message: fmt.Sprintf("app %s of %s begins anew", a.Name, a.User),
		})
	}
	return nil
}

// appListens records that an app can be used.
func (w *work) appListens(a store.AppRow, port int) error {
	if a.State == dspool.AppRunning && a.Port == port {
		return nil
	}
	now := w.Now()
	fresh := a.State != dspool.AppRunning
	a.State, a.Reason, a.Port = dspool.AppRunning, dspool.Reason{}, port
	if a.Started == nil {
		a.Started = &now
	}
	if err := w.moveApp(a); err != nil || !fresh {
		return err
	}
	return w.event(dspool.Event{
		Actor: "machine " + a.Machine, Kind: "app.running", Pool: a.Pool, Machine: a.Machine, User: a.User,
		Message: fmt.Sprintf("app %s of %s runs on %s, %s after it was wanted", a.Name, a.User, a.Machine, now.Sub(a.Created).Round(time.Millisecond)),
	})
}

// lastWords is what a program or its machine said, without the secrets that it was given.
func (w *work) lastWords(a store.AppRow, said dspool.Reason) (dspool.Reason, error) {
	if said.IsZero() {
		return said, nil
	}
	spec, err := w.AppSpec(a.ID)
	if err != nil {
		return dspool.Reason{}, err
	}
	var secrets []string
	secret := func(v string) {
		if len(v) >= 16 { // a word is no secret, nor is a number
			secrets = append(secrets, v, "…")
		}
	}
	secret(spec.Token)
	if a.User == dspool.HubUser {
		s, err := hubSecrets(w.authority)
		if err != nil {
			return dspool.Reason{}, err
		}
		for _, v := range []string{s.Token, s.Proxy, s.OAuth, s.Crypt} {
			secret(v)
		}
	}
	for k, v := range spec.Env {
		if !strings.HasSuffix(k, "_URL") && k != "PATH" {
			secret(v)
		}
	}
	// Before anything is cut: half of a secret is one.
	return heard(replaced(said, strings.NewReplacer(secrets...)), a.User), nil
}

// replaced is a reason with what was said in it rewritten, also in the reasons behind it.
func replaced(r dspool.Reason, by *strings.Replacer) dspool.Reason {
	r.Name, r.Detail = by.Replace(r.Name), by.Replace(r.Detail)
	because := make([]dspool.Reason, len(r.Because))
	for i, b := range r.Because {
		because[i] = replaced(b, by)
	}
	return r.With(because...)
}

// startMost is how long an app may take to listen.
const startMost = 10 * time.Minute

// EndSlowApps stops apps that have not begun to listen for long: as long as somebody waits for an app, its
// session does not end.
func (c *Control) EndSlowApps(ctx context.Context) error {
	slow := func(tx *store.Tx) (list []store.AppRow, err error) {
		open, err := tx.OpenApps()
		for _, a := range open {
			if a.State == dspool.AppStarting && !a.Restart && tx.Now().Sub(a.Since) > startMost {
				list = append(list, a)
			}
		}
		return list, err
	}
	var found []store.AppRow
	err := c.Store.Read(ctx, func(tx *store.Tx) (err error) {
		found, err = slow(tx)
		return err
	})
	if err != nil || len(found) == 0 {
		return err
	}
	return c.write(ctx, func(w *work) error {
		list, err := slow(w.Tx)
		for _, a := range list {
			if err := w.stopApp(a, dspool.Why(dspool.WhyAppSlow, dspool.ReasonParams{Within: dspool.Duration(startMost)})); err != nil {
				return err
			}
		}
		return err
	})
}
