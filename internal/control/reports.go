package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/clock"
	"github.com/dspool/dspool/internal/store"
)

// seenEvery is how exactly the store knows when an agent was last heard: writing each word
// down would cost a transaction a heartbeat.
const seenEvery = 20 * time.Second

// maxReports bounds the transaction that a machine can make us do.
const maxReports = 1000

// Report takes an agent's word on its own machine's attempts and health. It returns once
// everything is durable; reporting twice changes nothing.
func (c *Control) Report(ctx context.Context, machine string, r api.Report) error {
	if n := max(len(r.Attempts), len(r.Sessions)); n > maxReports {
		return dspool.Errorf(dspool.Invalid, "the report is about %d attempts or sessions", n).WithHint("at most %d at once", maxReports)
	}
	leave, err := c.lanes.enter(ctx, machine)
	if err != nil {
		return err
	}
	defer leave()
	return c.write(ctx, func(w *work) error {
		m, err := agentOf(w.Tx, machine)
		if err != nil {
			return err
		}
		c.lanes.hear(machine)
		if err := w.noteHealth(&m, r, c.lanes.news); err != nil {
			return err
		}
		if err := w.sessionsReported(machine, r.Sessions); err != nil {
			return err
		}
		if len(r.Attempts) == 0 {
			return nil
		}
		ids := make([]int64, len(r.Attempts))
		reports := make(map[int64]api.AttemptReport, len(r.Attempts))
		for i, a := range r.Attempts {
			if r.Now != nil {
				a.Started, a.Ended = onClock(w.Now(), *r.Now, a.Started), onClock(w.Now(), *r.Now, a.Ended)
			}
			ids[i], reports[a.ID] = a.ID, a
		}
		rows, err := w.Attempts(ids)
		if err != nil {
			return err
		}
		l := newLedger(w)
		if err := l.load(rows); err != nil {
			return err
		}
		for _, row := range rows {
			if err := l.reported(c.faults, machine, row, reports[row.ID]); err != nil {
				return err
			}
		}
		return l.flush()
	})
}

// onClock is a time of a machine whose clock says theirs on the clock that says now. Clocks that agree are believed
// as they are: how long a report was on its way, which differs, would else be part of how long a task took.
func onClock(now, theirs time.Time, t *time.Time) *time.Time {
	if t == nil || now.Sub(theirs).Abs() < clock.Jump {
		return t
	}
	at := now.Add(t.Sub(theirs))
	return &at
}

func (w *work) noteHealth(m *store.MachineRow, r api.Report, news func(string, time.Time) bool) error {
	health, reason := dspool.Healthy, dspool.Reason{}
	if r.Health == dspool.Unhealthy {
		health, reason = dspool.Unhealthy, heard(r.Reason, "")
	}
	changed := m.State == dspool.Ready && (m.Health != health || !m.HealthReason.Equal(reason))
	if !changed && w.Now().Sub(m.Seen) < seenEvery {
		return nil
	}
	m.Seen = w.Now()
	if !changed {
		return w.UpdateMachine(*m)
	}
	turned := m.Health != health
	m.Health, m.HealthReason = health, reason
	w.wake(topicPlan)
	if err := w.UpdateMachine(*m); err != nil || !turned || !news(m.Name, time.Now()) { // a reason that changes all the time is no event
		return err
	}
	return w.event(dspool.Event{
		Actor: "machine " + m.Name, Kind: "machine." + string(health), Pool: m.Pool, Machine: m.Name,
		Message: fmt.Sprintf("%s is %s", m.Name, health), Reason: reason,
	})
}

// alsoKilled adds to why an attempt was to end what its machine says that the kernel did to it before.
func alsoKilled(said, why dspool.Reason) dspool.Reason {
	if !said.Is(dspool.WhyKilledSome) || why.IsZero() {
		return why
	}
	return said.With(why)
}

// reported applies an agent's word on one attempt. A machine's root is not trusted: it speaks
// for its own attempts only, and cannot call a task succeeded that never started or cancelled
// that nobody cancelled.
func (l *ledger) reported(f *faults, machine string, row store.AttemptRow, r api.AttemptReport) error {
	i := slices.IndexFunc(row.Claims, func(cl store.ClaimRow) bool { return cl.Machine == machine })
	if i < 0 || row.State.Ended() {
		return nil
	}
	wish := row.Claims[i]
	o := outcome{State: r.State, ExitCode: r.ExitCode, Reason: heard(r.Reason, row.User), Started: r.Started, Ended: r.Ended}
	if o.ExitCode != nil && (*o.ExitCode < 0 || *o.ExitCode > 255) {
		o.ExitCode = nil
	}
	wish.Why = alsoKilled(o.Reason, wish.Why)
	ran := r.Started != nil || row.Started != nil
	if ran && row.Started == nil {
		if err := l.hasStarted(f, machine, row); err != nil {
			return err
		}
	}
	switch {
	case r.State == dspool.TaskRunning:
		if o.Started == nil {
			now := l.Now()
			o.Started = &now
		}
		news := o.Reason.Is(dspool.WhyKilledSome) && !row.Reason.Is(dspool.WhyKilledSome)
		if told := l.move(row, o) || l.killed(row, o.Reason); !told || !news {
			return nil
		}
		return l.event(dspool.Event{
			Actor: "machine " + machine, Kind: "task.killed", Machine: machine, Job: row.Job, User: row.User,
			Message: fmt.Sprintf("the kernel killed some of task %d of job %d", row.Index, row.Job), Reason: o.Reason,
		})
	case r.State == dspool.TaskSucceeded && ran:
	case r.State == dspool.TaskSucceeded:
		o.State, o.Reason = dspool.TaskFailed, dspool.Reason{Code: dspool.WhyNeverStarted}
	case r.State == dspool.TaskCancelled && wish.Desired == store.Recall && !ran:
		l.putBack(row)
		return nil
	case r.State == dspool.TaskCancelled && wish.Desired == store.Cancel:
		o.Reason = wish.Why.Or(o.Reason)
	case r.State == dspool.TaskCancelled:
		o.State, o.Reason = dspool.TaskFailed, dspool.Reason{Code: dspool.WhyGivenUp}.With(o.Reason.Or(dspool.Reason{Code: dspool.WhyNotSaid}))
	case r.State == dspool.TaskFailed && wish.Desired == store.Cancel:
		o.State, o.Reason = dspool.TaskCancelled, wish.Why
	case r.State == dspool.TaskFailed && r.HostFault && !ran:
		o.Reason = faultOf(o.Reason, *l.jobs[row.Job], machine)
		if back, err := l.hostFault(f, machine, row, o.Reason); err != nil || back {
			return err
		}
	case r.State == dspool.TaskFailed:
	default:
		return nil
	}
	if !l.move(row, o) || o.State != dspool.TaskFailed {
		return nil
	}
	return l.event(dspool.Event{
		Actor: "machine " + machine, Kind: "task.failed", Machine: machine, Job: row.Job, User: row.User,
		Message: fmt.Sprintf("task %d of job %d failed", row.Index, row.Job), Reason: o.Reason,
	})
}
