package agent

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// report posts what changed until ctx is done: while one report is on its way, changes gather
// for the next. When ctx is done it has a last word.
func (a *Agent) report(ctx context.Context) {
	// The first says that the machine is there.
	a.post(ctx, a.seats.batch(true, time.Now()))
	posted := time.Now()
	beat := posted.Add(heartbeat)
	next := beat
	for ctx.Err() == nil {
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-a.changed:
		case <-a.seats.wake:
		case <-a.table.hurry:
		case <-a.table.wake:
			a.gather(ctx)
		}
		timer.Stop()
		if ctx.Err() != nil {
			break
		}
		// A first change goes out at once; a machine that is busy gathers some.
		if !sleep(ctx, minGap-time.Since(posted)) {
			break
		}
		batch, again := a.table.batch(maxBatch, time.Now())
		// With every heartbeat go all sessions, so that what the server knows is never older.
		a.post(ctx, append(batch, a.seats.batch(!time.Now().Before(beat), time.Now())...))
		posted = time.Now()
		if !posted.Before(beat) {
			beat = posted.Add(heartbeat)
		}
		next = beat
		if !again.IsZero() && again.Before(next) {
			next = again
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	batch, _ := a.table.batch(maxBatch, time.Now())
	if batch = append(batch, a.seats.batch(false, time.Now())...); len(batch) > 0 {
		a.post(last, batch)
	}
}

// gather gives attempts that just began the time to end, unless there is more to say.
func (a *Agent) gather(ctx context.Context) {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.table.hurry:
	case <-a.changed:
	case <-a.seats.wake:
	case <-ctx.Done():
	}
}

// post sends one report until the server has it durably or refuses it for good, or ctx is done.
func (a *Agent) post(ctx context.Context, batch []said) {
	var wait backoff
	for ctx.Err() == nil {
		now := time.Now()
		sent := now.UTC()
		r := api.Report{Now: &sent}
		for _, s := range batch {
			if s.seat != nil {
				r.Sessions = append(r.Sessions, s.session)
			} else {
				r.Attempts = append(r.Attempts, s.dated(now))
			}
		}
		r.Health, r.Reason = a.currentHealth()
		err := a.link.call(ctx, http.MethodPost, "/agent/v1/reports", r, nil)
		var status *statusError
		switch {
		case err == nil:
			a.forgetApps(ctx, a.seats.heard(batch))
			a.settle(ctx, a.table.heard(batch))
			return
		case errors.As(err, &status) && status.aboutContent():
			a.halve(ctx, batch, err)
			return
		}
		if ctx.Err() != nil {
			return
		}
		a.log.Warn("the agent could not report", "items", len(batch), "error", err)
		wait.pause(ctx)
	}
}

// halve finds what in a refused report the server does not take: the rest goes through, and
// that is offered again later, because the server may have been wrong.
func (a *Agent) halve(ctx context.Context, batch []said, err error) {
	switch n := len(batch); n {
	case 0:
		a.log.Error("the server refuses the agent's heartbeat", "error", err)
		sleep(ctx, firstBackoff)
	case 1:
		s, until := batch[0], time.Now().Add(refusedAgain)
		a.log.Error("the server refuses a report", "attempt", s.report.ID, "session", s.session.ID, "state", s.report.State, "error", err)
		a.table.refused(s, until)
		a.seats.refused(s, until)
	default:
		a.post(ctx, batch[:n/2])
		a.post(ctx, batch[n/2:])
	}
}

// settle has the Executor forget what the server has. What it does not forget now, a later
// agent reports once more, which changes nothing.
func (a *Agent) settle(ctx context.Context, ids []int64) {
	if len(ids) == 0 {
		return
	}
	a.work.Go(func() {
		_ = a.insist(ctx, "forget attempts", func() error { return a.cfg.Executor.Forget(ctx, ids) })
	})
}

func (a *Agent) currentHealth() (dspool.Health, dspool.Reason) {
	a.healthMu.Lock()
	defer a.healthMu.Unlock()
	return a.health, a.reason
}
