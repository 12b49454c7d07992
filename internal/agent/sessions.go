package agent

import (
	"context"
	"errors"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
)

// direct carries out an answer of the server; whole says that it is all that is not settled.
func (a *Agent) direct(ctx context.Context, d api.Directives, whole bool) {
	work := a.seats.direct(d.Sessions, whole)
	a.hold(ctx) // before what the same answer places ahead
	a.do(ctx, a.table.direct(d))
	a.seat(ctx, work)
}

// hold keeps what sessions hold of the machine from attempts placed ahead.
func (a *Agent) hold(ctx context.Context) {
	a.do(ctx, a.table.hold(a.seats.held()))
}

// trust starts sshd, where there is one.
func (a *Agent) trust(ctx context.Context) error {
	authority := a.link.state.SSHTrust
	if authority == "" {
		return nil
	}
	return a.insist(ctx, "start sshd", func() error {
		err := a.cfg.Host.Trust(ctx, authority)
		if err != nil && !errors.Is(err, host.ErrAway) {
			// Attempts need no logins; a session will say why it cannot be opened.
			a.log.Error("nobody can log in", "error", err)
			return nil
		}
		return err
	})
}

// adoptSessions takes over what an earlier agent opened.
func (a *Agent) adoptSessions(ctx context.Context) error {
	return a.insist(ctx, "list sessions", func() error {
		list, err := a.cfg.Host.Sessions(ctx)
		if err != nil {
			return err
		}
		apps, _, err := a.cfg.Host.Apps(ctx, 0, 0)
		if err == nil {
			a.seats.adopt(list)
			a.seats.seenApps(apps, a.seats.lookAtApps())
		}
		return err
	})
}

// seat has each session brought to what the server wants, in a goroutine of its own.
func (a *Agent) seat(ctx context.Context, work []*seat) {
	for _, s := range work {
		a.work.Go(func() { a.settleSeat(ctx, s) })
	}
}

func (a *Agent) settleSeat(ctx context.Context, s *seat) {
	for ctx.Err() == nil {
		want, before, more := a.seats.next(s)
		switch {
		case !more:
			return
		case before != nil:
			select {
			case <-before:
			case <-ctx.Done():
			}
		case want.Close:
			a.closeSeat(ctx, s, want, dspool.Reason{})
		default:
			err := a.openSeat(ctx, want)
			switch {
			case ctx.Err() != nil:
			case err == nil:
				a.seats.opened(s, want)
			case a.seats.stays(s, want):
				a.log.Error("a session cannot be brought up to date", "session", want.ID, "user", want.User, "error", err)
			default:
				a.log.Warn("a session cannot be opened", "session", want.ID, "user", want.User, "error", err)
				a.closeSeat(ctx, s, want, dspool.Why(dspool.WhyNotOpened, dspool.ReasonParams{Detail: err.Error()}))
			}
		}
	}
}

// openSeat returns only errors that are for good, or that of ctx.
func (a *Agent) openSeat(ctx context.Context, want api.SessionDirective) (final error) {
	err := a.insist(ctx, "open a session", func() error {
		final = a.cfg.Host.Open(ctx, want)
		if errors.Is(final, host.ErrAway) {
			return final
		}
		return nil
	})
	return errors.Join(err, final)
}

func (a *Agent) closeSeat(ctx context.Context, s *seat, want api.SessionDirective, failed dspool.Reason) {
	err := a.insist(ctx, "close a session", func() error { return a.cfg.Host.Close(ctx, want) })
	if err == nil {
		a.seats.closed(s, failed)
		a.hold(ctx)
	}
}

// watchSessions looks what lives in sessions until ctx is done.
func (a *Agent) watchSessions(ctx context.Context) {
	for a.awaitLook(ctx) {
		list, err := a.cfg.Host.Sessions(ctx)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn("the agent could not look at sessions", "error", err)
			}
			continue
		}
		a.seat(ctx, a.seats.seen(list))
	}
}

// watchApps follows how apps stand until ctx is done.
func (a *Agent) watchApps(ctx context.Context) {
	seen, wait, since := int64(0), time.Duration(0), time.Time{}
	_ = a.insist(ctx, "look at apps", func() error {
		for {
			changes := a.seats.lookAtApps()
			list, version, err := a.cfg.Host.Apps(ctx, seen, wait)
			if err != nil {
				return err
			}
			seen, wait = version, a.cfg.LookEvery
			switch starting := a.seats.seenApps(list, changes); {
			case !starting:
				since = time.Time{}
			case since.IsZero():
				since = time.Now()
				fallthrough
			case time.Since(since) < appHurry:
				wait = min(wait, appLook)
			default: // one that takes long, or fails again and again
				wait = min(wait, appLookLater)
			}
		}
	})
}

// forgetApps has the machine forget apps whose end the server has.
func (a *Agent) forgetApps(ctx context.Context, ids []int64) {
	if len(ids) == 0 {
		return
	}
	a.work.Go(func() {
		_ = a.insist(ctx, "forget apps", func() error { return a.cfg.Host.ForgetApps(ctx, ids) })
	})
}

// awaitLook waits until it is time for a look: at intervals, soon after a session has opened, and
// when something of one was killed for memory. It returns false when ctx is done.
func (a *Agent) awaitLook(ctx context.Context) bool {
	timer, kills := time.NewTimer(a.cfg.LookEvery), time.NewTicker(killLook)
	defer timer.Stop()
	defer kills.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-a.seats.fresh:
			return sleep(ctx, min(firstLook, a.cfg.LookEvery))
		case <-kills.C:
			if a.seats.held() == (dspool.Resources{}) {
				continue // nobody is there
			}
			if killed, err := a.cfg.Host.Killed(ctx); err == nil && killed {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// noHost is a machine that takes no sessions.
type noHost struct{}

func (noHost) HostKey() (string, error)                          { return "", nil }
func (noHost) Trust(context.Context, string) error               { return nil }
func (noHost) Close(context.Context, api.SessionDirective) error { return nil }
func (noHost) Sessions(context.Context) ([]host.Session, error)  { return nil, nil }
func (noHost) Killed(context.Context) (bool, error)              { return false, nil }
func (noHost) Health(context.Context) (dspool.Health, dspool.Reason) {
	return dspool.Healthy, dspool.Reason{}
}
func (noHost) ForgetApps(context.Context, []int64) error { return nil }
func (noHost) Apps(ctx context.Context, _ int64, wait time.Duration) ([]host.App, int64, error) {
	if !sleep(ctx, wait) {
		return nil, 0, ctx.Err()
	}
	return nil, 0, nil
}
func (noHost) Open(context.Context, api.SessionDirective) error {
	return dspool.Errorf(dspool.Unavailable, "the machine takes no sessions")
}
