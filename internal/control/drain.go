package control

import (
	"context"
	"fmt"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// Cordon keeps new claims off a machine, or lets them on it again. What is there stays.
func (c *Control) Cordon(ctx context.Context, who auth.Subject, name string, cordoned bool) (out dspool.Machine, err error) {
	if !auth.Can(who, auth.Change, auth.Machine, "") {
		return out, forbid("cordon machines")
	}
	err = c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil {
			return err
		}
		if m.State.Ended() {
			return dspool.Errorf(dspool.Conflict, "machine %s is already %s", name, m.State)
		}
		kind := "machine.cordon"
		if m.Cordoned = cordoned; !cordoned {
			kind = "machine.uncordon"
			m.DrainBy, m.Remove = nil, dspool.Reason{}
		}
		if err := w.UpdateMachine(m); err != nil {
			return err
		}
		out = showMachine(who, m.Machine)
		w.wake(topicPlan, topicGateway)
		return w.event(dspool.Event{
			Actor: who.Name(), Kind: kind, Pool: m.Pool, Machine: name,
			Message: name + map[bool]string{true: " takes no new claims", false: " takes claims again"}[cordoned],
		})
	})
	return out, err
}

// Drain asks for a machine's end: no new claims, people are told, and it goes when nothing lives on it or
// the deadline has passed.
func (c *Control) Drain(ctx context.Context, who auth.Subject, name string, deadline time.Duration) (op dspool.Operation, err error) {
	if !auth.Can(who, auth.Change, auth.Machine, "") {
		return op, forbid("drain machines")
	}
	if deadline < 0 || deadline > 30*24*time.Hour {
		return op, dspool.Errorf(dspool.Invalid, "a deadline of %s is not possible", dspool.Duration(deadline)).WithHint("at most 30d")
	}
	err = c.write(ctx, func(w *work) error {
		m, err := w.Machine(name)
		if err != nil {
			return err
		}
		if m.State.Ended() {
			return dspool.Errorf(dspool.Conflict, "machine %s is already %s", name, m.State)
		}
		m.Cordoned, m.Remove, m.DrainBy = true, dspool.Why(dspool.WhyDrainedBy, dspool.ReasonParams{By: who.Name()}), nil
		progress := "waits until nothing lives on it"
		if deadline > 0 {
			t := w.Now().Add(deadline)
			m.DrainBy = &t
			progress += ", at most " + dspool.Duration(deadline).String()
		}
		if err := w.UpdateMachine(m); err != nil {
			return err
		}
		op = dspool.Operation{ID: auth.NewID(), Kind: opRemoveMachine, Target: name, User: who.Name(), State: dspool.OperationRunning, Progress: progress, Created: w.Now()}
		if err := w.PutOperation(op); err != nil {
			return err
		}
		w.wake(topicPlan, topicGateway)
		return w.event(dspool.Event{Actor: who.Name(), Kind: "machine.drain", Pool: m.Pool, Machine: name, Message: fmt.Sprintf("%s drains: it %s", name, progress)})
	})
	return op, err
}

// putOffDrain moves a drain's deadline on for somebody who keeps a session there, within the policy.
func (w *work) putOffDrain(machine string, until time.Time, most time.Duration) error {
	if machine == "" {
		return nil
	}
	m, err := w.Machine(machine)
	if err != nil || m.DrainBy == nil || !until.After(*m.DrainBy) {
		return err
	}
	// However often somebody asks: the policy counts from when the drain began.
	running, err := w.RunningOperations()
	if err != nil {
		return err
	}
	last := w.Now().Add(most)
	for _, o := range running {
		if t := o.Created.Add(most); o.Kind == opRemoveMachine && o.Target == machine && t.Before(last) {
			last = t
		}
	}
	if !last.After(*m.DrainBy) {
		return nil
	}
	until = clamp(until, *m.DrainBy, last)
	m.DrainBy = &until
	w.wake(topicGateway)
	return w.UpdateMachine(m)
}

// drainNotices tell people on draining machines how long they have. What they are told changes only at steps
// that are worth a line on a terminal.
func drainNotices(tx *store.Tx) (tell []api.Notice, err error) {
	machines, err := tx.LiveMachines()
	if err != nil {
		return nil, err
	}
	leaves := map[string]dspool.Reason{}
	for _, m := range machines {
		switch {
		case m.DrainBy != nil:
			leaves[m.Name] = leavesIn(m.Name, m.DrainBy.Sub(tx.Now())).With(m.Remove)
		case !m.Remove.IsZero():
			leaves[m.Name] = dspool.Why(dspool.WhyLeavesUnused, dspool.ReasonParams{Machine: m.Name}).With(m.Remove)
		}
	}
	if len(leaves) == 0 {
		return nil, nil
	}
	sessions, err := tx.OpenSessions()
	if err != nil {
		return nil, err
	}
	on := map[int64]string{}
	for _, s := range sessions {
		on[s.ID] = s.Machine
	}
	open, err := tx.OpenConnections(0)
	for _, conn := range open {
		if r := leaves[on[conn.Session]]; !r.IsZero() {
			tell = append(tell, api.Notice{Connection: conn.ID, Reason: toUser(conn.User, r)})
		}
	}
	return tell, err
}

// leavesIn rounds a time left up to a step: people are told again when a step is passed.
func leavesIn(machine string, left time.Duration) dspool.Reason {
	for _, step := range []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 4 * time.Hour, 24 * time.Hour} {
		if left <= step {
			return dspool.Why(dspool.WhyLeavesIn, dspool.ReasonParams{Machine: machine, Within: dspool.Duration(step)})
		}
	}
	return dspool.Why(dspool.WhyLeavesLater, dspool.ReasonParams{Machine: machine})
}
