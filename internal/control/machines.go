package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// maxMachines is how many machines are listed at most.
const maxMachines = 1000

// Machines lists machines, newest first; all includes those that are gone.
func (c *Control) Machines(ctx context.Context, who auth.Subject, pool string, all bool) (list api.List[dspool.Machine], err error) {
	list.Items = []dspool.Machine{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		if pool != "" {
			if _, err := tx.Pool(pool); err != nil {
				return err
			}
		}
		rows, err := tx.Machines(pool, all, maxMachines+1)
		if err != nil {
			return err
		}
		if list.More = len(rows) > maxMachines; list.More {
			rows = rows[:maxMachines]
		}
		for _, r := range rows {
			m, err := machineOf(tx, who, r)
			if err != nil {
				return err
			}
			list.Items = append(list.Items, m)
		}
		return nil
	})
	return list, err
}

// Machine shows one machine, what is placed on it and why it stands as it stands.
func (c *Control) Machine(ctx context.Context, who auth.Subject, name string) (d api.MachineDetail, err error) {
	d.Tasks, d.Events = []dspool.Task{}, []dspool.Event{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		row, err := tx.Machine(name)
		if err != nil {
			return err
		}
		if d.Machine, err = machineOf(tx, who, row); err != nil {
			return err
		}
		open, err := tx.OpenAttempts(name)
		if err != nil {
			return err
		}
		var ids []int64
		for _, a := range open {
			ids = append(ids, a.Job)
		}
		jobs, err := tx.JobsByID(ids)
		if err != nil {
			return err
		}
		for _, a := range open {
			if auth.CanOld(who, auth.See, auth.Job, a.User, jobs[a.Job].UID) {
				d.Tasks = append(d.Tasks, showTask(who, a.User, dspool.Task{
					Job: a.Job, Index: a.Index, State: a.State, Reason: a.Reason, Attempt: a.ID,
					Machine: name, ExitCode: a.ExitCode, Started: a.Started, Ended: a.Ended,
				}))
			}
		}
		d.Events, err = tx.Events(store.EventFilter{Machine: name, Latest: true, Limit: 20, User: visibleTo(who), UID: who.UID})
		for i := range d.Events {
			d.Events[i] = showEvent(who, d.Events[i])
		}
		return err
	})
	return d, err
}

// machineOf is a machine as a subject sees it. Attempts placed ahead wait on it and hold nothing yet:
// they are left out of what is used.
func machineOf(tx *store.Tx, who auth.Subject, row store.MachineRow) (dspool.Machine, error) {
	m := showMachine(who, row.Machine)
	if m.Used.Fits(m.Resources) {
		return m, nil
	}
	open, err := tx.OpenAttempts(m.Name)
	m.Used, m.Claims = dspool.Resources{}, 0
	for _, running := range []bool{true, false} {
		for _, a := range open {
			for _, cl := range a.Claims {
				if cl.Machine != m.Name || (a.State == dspool.TaskRunning) != running {
					continue
				}
				if sum := m.Used.Add(cl.Request); running || sum.Fits(m.Resources) {
					m.Used, m.Claims = sum, m.Claims+1
				}
			}
		}
	}
	return m, err
}

// visibleTo is whose events a subject sees besides those of nobody: "" is everybody's.
func visibleTo(who auth.Subject) string {
	if who.Admin {
		return ""
	}
	return cmp.Or(who.User, "\x00nobody")
}

// RemoveMachine asks for a machine's end: when nothing runs on it any more or, with force, now.
func (c *Control) RemoveMachine(ctx context.Context, who auth.Subject, name string, force bool) (op dspool.Operation, err error) {
	if !auth.Can(who, auth.Change, auth.Machine, "") {
		return op, forbid("remove machines")
	}
	err = c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil {
			return err
		}
		if m.State.Ended() {
			return dspool.Errorf(dspool.Conflict, "machine %s is already %s", name, m.State)
		}
		op = dspool.Operation{
			ID: auth.NewID(), Kind: opRemoveMachine, Target: name, User: who.Name(),
			State: dspool.OperationRunning, Progress: "waits until nothing runs on it", Created: w.Now(),
		}
		m.Remove = dspool.Why(dspool.WhyRemovedBy, dspool.ReasonParams{By: who.Name()})
		if force {
			op.Progress = "removing it"
			now := w.Now()
			m.DrainBy = &now
		}
		if err := w.UpdateMachine(m); err != nil {
			return err
		}
		w.wake(topicPlan)
		if err := w.PutOperation(op); err != nil {
			return err
		}
		return w.event(dspool.Event{
			Actor: who.Name(), Kind: "machine.remove", Pool: m.Pool, Machine: name,
			Message: fmt.Sprintf("%s asked to remove %s%s", who.Name(), name, map[bool]string{true: " now"}[force]),
		})
	})
	return op, err
}

const (
	opRemoveMachine = "machine.remove"
	opBuildImage    = "image.build"
)

// MachineEnded records that nothing is left of a machine: its claims end, what ran on it is lost. It and all
// that was on it ended when it was last seen to be there, by this process's clock; zero is now.
func (c *Control) MachineEnded(ctx context.Context, name string, seen time.Time) error {
	former := false
	err := c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil || m.State.Ended() {
			return err
		}
		image, err := w.Image(m.Image)
		if err != nil && dspool.ErrorCode(err) != dspool.NotFound {
			return err
		}
		former = m.ImageKey != image.Key
		at := w.Now()
		if !seen.IsZero() {
			at = at.Add(-time.Since(seen))
		}
		return w.endMachine(m, at)
	})
	if err == nil {
		c.lanes.forget(name)
	}
	if err == nil && former {
		c.ReleaseImages()
	}
	return err
}

// endMachine ends a machine and all that was on it since a time.
func (w *work) endMachine(m store.MachineRow, at time.Time) error {
	why := dspool.Why(dspool.WhyMachineGone, dspool.ReasonParams{Machine: m.Name}).With(m.Failure.Or(m.Reason))
	if err := w.loseAttempts(m.Name, why, at); err != nil {
		return err
	}
	if err := w.closeSessionsOf(m.Name, why, at); err != nil {
		return err
	}
	// What it held may have ended a moment after it was last seen.
	held, err := w.Machine(m.Name)
	if err != nil {
		return err
	}
	if held.IdleSince != nil {
		at = latest(at, *held.IdleSince)
	}
	at = clamp(at, m.Created, w.Now())
	m.State, m.Ended, m.TokenHash = dspool.Gone, &at, ""
	if !m.Failure.IsZero() {
		m.State = dspool.Failed
	}
	if err := w.UpdateMachine(m); err != nil {
		return err
	}
	w.wake(topicPlan, TopicMachine(m.Name))
	if err := w.endOperations(opRemoveMachine, m.Name, nil); err != nil {
		return err
	}
	return w.event(dspool.Event{
		Actor: "server", Kind: "machine." + string(m.State), Pool: m.Pool, Machine: m.Name,
		Message: fmt.Sprintf("%s is gone", m.Name), Reason: m.Failure.Or(m.Reason),
	})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Uninstalled records that nothing is left on the host of what a server made there. Of each machine that
// was there when its removal began the end is now, of others when they were last seen.
func Uninstalled(ctx context.Context, st *store.Store, there func(machine string) bool) error {
	return st.Write(ctx, func(tx *store.Tx) error {
		w := &work{Tx: tx, wakes: map[string]bool{}}
		live, err := w.LiveMachines()
		if err != nil {
			return err
		}
		for _, m := range live {
			if m.State != dspool.Destroying {
				m.Reason = dspool.Reason{Code: dspool.WhyUninstalled}
			}
			at := w.Now()
			if !there(m.Name) {
				at = LastSight(m)
			}
			if err := w.endMachine(m, at); err != nil {
				return err
			}
		}
		return nil
	})
}

// LastSight is when the state last knew of a machine that it was there.
func LastSight(m store.MachineRow) time.Time { return latest(m.Created, latest(m.Seen, m.Sighted)) }

// MachineLost records a machine's fault and begins its end.
func (c *Control) MachineLost(ctx context.Context, name string, failure dspool.Reason) error {
	return c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil || m.State.Ended() || m.State == dspool.Destroying {
			return err
		}
		failure = failure.Clipped()
		m.State, m.Failure, m.Reason = dspool.Destroying, failure, failure
		m.Tries, m.RetryAt = 0, w.Now()
		if err := w.UpdateMachine(m); err != nil {
			return err
		}
		w.wake(topicPlan)
		return w.event(dspool.Event{
			Actor: "server", Kind: "machine.fault", Pool: m.Pool, Machine: name,
			Message: fmt.Sprintf("%s has a fault", name), Reason: m.Failure,
		})
	})
}

// Operation returns an operation that the subject may see.
func (c *Control) Operation(ctx context.Context, who auth.Subject, id string) (op dspool.Operation, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		op, err = tx.Operation(id)
		uid := 0
		if err == nil {
			uid, err = tx.OperationUID(id)
		}
		if dspool.ErrorCode(err) == dspool.NotFound || (err == nil && !auth.CanOld(who, auth.See, auth.Operation, op.User, uid)) {
			return hidden("operation", dspool.Quote(id))
		}
		op = showOperation(who, op)
		return err
	})
	return op, err
}

// endOperations ends the running operations of a kind on a target.
func (w *work) endOperations(kind, target string, failure *dspool.Error) error {
	running, err := w.RunningOperations()
	if err != nil {
		return err
	}
	running = slices.DeleteFunc(running, func(o dspool.Operation) bool { return o.Kind != kind || o.Target != target })
	for _, o := range running {
		now := w.Now()
		o.State, o.Error, o.Ended, o.Progress = dspool.OperationSucceeded, failure, &now, ""
		if failure != nil {
			o.State = dspool.OperationFailed
		}
		if err := w.PutOperation(o); err != nil {
			return err
		}
		w.wake(TopicOperation(o.ID))
	}
	return nil
}
