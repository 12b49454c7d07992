package control

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// repeatSteps is how often a step is told again while nothing changes, so that whoever waits knows that
// the server still lives, and how long it should still take.
const repeatSteps = 15 * time.Second

// AppSteps tells through step how an app comes along, and returns when it runs or has ended.
func (c *Control) AppSteps(ctx context.Context, who auth.Subject, id int64, step func(api.SessionStep) error) error {
	repeat := time.NewTicker(repeatSteps)
	defer repeat.Stop()
	var last api.SessionStep
	again := true
	for {
		changed := c.Changed(TopicApp(id))
		now, session, err := c.appStep(ctx, who, id)
		if err != nil {
			return err
		}
		if again || !now.Reason.Equal(last.Reason) || now.Position != last.Position || now.Ready != nil || now.Failed != nil {
			if err := step(now); err != nil {
				return err
			}
			last = now
		}
		if now.Ready != nil || now.Failed != nil {
			return nil
		}
		again = false
		select {
		case <-changed:
		case <-session:
		case <-repeat.C:
			again = true
		case <-ctx.Done():
			return ctx.Err()
		case <-c.base.Done():
			return dspool.Errorf(dspool.Unavailable, "the server stops")
		}
	}
}

// appStep says how far an app has come; session is closed when its session changes.
func (c *Control) appStep(ctx context.Context, who auth.Subject, id int64) (st api.SessionStep, session <-chan struct{}, err error) {
	var a store.AppRow
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		a, err = seenApp(tx, who, id)
		return err
	})
	if err != nil {
		return st, nil, err
	}
	session = c.Changed(TopicSession(a.Session)) // before it is read
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if a, err = seenApp(tx, who, id); err != nil {
			return err
		}
		st, err = appStepOf(tx, a)
		st.Reason = toUser(a.User, st.Reason)
		return err
	})
	return st, session, err
}

func appStepOf(tx *store.Tx, a store.AppRow) (st api.SessionStep, err error) {
	st.Session = a.Session
	switch a.State {
	case dspool.AppWaiting:
		s, err := tx.Session(a.Session)
		if err != nil {
			return st, err
		}
		switch s.State {
		case dspool.SessionWaiting:
			st.Reason, st.Position = s.Reason.Or(dspool.Reason{Code: dspool.WhyLooking}), s.Position
			st.Estimate, err = startEstimate(tx, s)
			if st.Estimate > 0 { // its machine comes; the app itself takes longer
				st.Estimate, err = appEstimate(tx, a)
			}
		case dspool.SessionPlaced:
			st.Reason = dspool.Why(dspool.WhyPreparing, dspool.ReasonParams{Machine: s.Machine})
			st.Estimate, err = appEstimate(tx, a)
		default:
			st.Reason = dspool.Why(dspool.WhyAppBefore, dspool.ReasonParams{Name: a.Name})
		}
		return st, err
	case dspool.AppStarting:
		st.Reason = dspool.Why(dspool.WhyAppStarting, dspool.ReasonParams{Name: a.Name, Machine: a.Machine})
		st.Estimate, err = appEstimate(tx, a)
		return st, err
	case dspool.AppStopping:
		st.Reason = dspool.Why(dspool.WhyAppEnding, dspool.ReasonParams{Name: a.Name})
	case dspool.AppRunning:
		m, err := tx.Machine(a.Machine)
		if err != nil {
			return st, err
		}
		st.Reason = dspool.Why(dspool.WhyAppRuns, dspool.ReasonParams{Name: a.Name, Machine: a.Machine})
		st.Ready = &api.MachineAccess{Machine: a.Machine, Address: net.JoinHostPort(m.Address, strconv.Itoa(a.Port)), HostKeys: []string{}}
	default:
		st.Reason = toUser(a.User, appEnd(a))
		st.Failed = dspool.Errorf(dspool.Unavailable, "%s", st.Reason).WithReason(st.Reason)
		if a.Started != nil || a.ExitCode != nil {
			st.Failed = st.Failed.WithHint("what it said is in ~/.local/state/dspool/%s.log", a.Name)
		}
	}
	return st, nil
}

// latestStarts is how many past starts an estimate looks back at, of everybody's apps together.
const latestStarts = 50

// appEstimate is how long it should still take until an app runs: the mean of the latest starts of such
// apps in its pool, less the time that it has taken already; 0, unknown, when there were none or it is late.
func appEstimate(tx *store.Tx, a store.AppRow) (dspool.Duration, error) {
	rows, err := tx.Apps(store.AppFilter{All: true, Limit: latestStarts})
	if err != nil {
		return 0, err
	}
	var sum, n time.Duration
	for _, r := range rows {
		if r.Name == a.Name && r.Pool == a.Pool && r.Started != nil {
			sum += r.Started.Sub(r.Created)
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	return dspool.Duration(max(sum/n-tx.Now().Sub(a.Created), 0).Round(100 * time.Millisecond)), nil
}

// appEnd is how an app has ended, with its exit code where the reason is another.
func appEnd(a store.AppRow) dspool.Reason {
	end := dspool.Why(dspool.WhyAppEnded, dspool.ReasonParams{Name: a.Name})
	if a.ExitCode != nil && !a.Reason.Is(dspool.WhyExitCode) {
		end.Code, end.Count = dspool.WhyAppEndedExit, int64(*a.ExitCode)
	}
	return end.With(a.Reason)
}
