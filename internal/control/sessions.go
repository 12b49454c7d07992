package control

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/auth"
	"github.com/dspool/dspool/internal/store"
)

// TopicSession is the topic of a session.
func TopicSession(id int64) string { return "session " + strconv.FormatInt(id, 10) }

const topicGateway = "gateway"

// sshPort is where a machine's sshd listens.
const sshPort = "22"

// OpenSession finds or makes the user's session, tells through step how it comes along, and returns
// when it can be used or never will be. The connection counts from the beginning, so that nobody
// ends the session of somebody who waits for it.
func (c *Control) OpenSession(ctx context.Context, req api.OpenSession, step func(api.SessionStep) error) error {
	id, err := c.enter(ctx, req)
	if err != nil {
		return err
	}
	var last api.SessionStep
	for {
		changed := c.Changed(TopicSession(id))
		now, err := c.sessionStep(ctx, id)
		if err != nil {
			return err
		}
		if !now.Reason.Equal(last.Reason) || now.Position != last.Position || now.Ready != nil || now.Failed != nil {
			if err := step(now); err != nil {
				c.leave(req.Connection)
				return err
			}
			last = now
		}
		if now.Ready != nil || now.Failed != nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			// A server that stops also ends the request: the person still waits, and the gateway asks again.
			if c.base.Err() == nil {
				c.leave(req.Connection)
			}
			return ctx.Err()
		case <-c.base.Done():
			return dspool.Errorf(dspool.Unavailable, "the server stops")
		}
	}
}

// enter records the connection and the session that it belongs to.
func (c *Control) enter(ctx context.Context, req api.OpenSession) (id int64, err error) {
	var user dspool.User
	var pool dspool.Pool
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		w := &work{Tx: tx}
		if user, err = w.User(req.User); err != nil {
			return err
		}
		fallback, err := w.Setting(settingPool)
		if err != nil {
			return err
		}
		pool, err = w.poolForPeople(cmp.Or(req.Pool, user.DefaultPool, req.DoorPool, fallback))
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := c.makeSessionTrees(ctx, user, pool.Name); err != nil {
		return 0, err
	}
	err = c.write(ctx, func(w *work) error {
		if user, err = w.User(req.User); err != nil { // removed meanwhile
			return err
		}
		s, err := w.sessionFor(user, pool.Name, req.Size)
		if err != nil {
			return err
		}
		id = s.ID
		return w.connect(c, req, s)
	})
	return id, err
}

// sessionFor finds or makes the user's session in a pool; size is that of the machine, "" for any. Unavailable,
// with the session, while the last one is being ended; Conflict where there is one of another size.
func (w *work) sessionFor(user dspool.User, poolName, size string) (store.SessionRow, error) {
	s, found, err := w.SessionOf(user.Name, poolName)
	if err != nil {
		return s, err
	}
	if found && s.State == dspool.SessionClosing {
		return s, dspool.Errorf(dspool.Unavailable, "your last session on %s is still being ended", s.Machine).WithHint("try again in a few seconds")
	}
	if found {
		return s, w.joins(s, size)
	}
	pool, err := w.knownPool(poolName)
	if err != nil {
		return s, err
	}
	z, err := w.sizeOf(pool, size)
	if err != nil {
		return s, err
	}
	return w.newSession(user, pool, size, z.Resources)
}

// connect records a connection of a session, unless it is recorded: a gateway asks again after a
// restart of the server.
func (w *work) connect(c *Control, req api.OpenSession, s store.SessionRow) error {
	c.heard(req.Connection)
	if old, err := w.Connection(req.Connection); err == nil {
		if old.User != s.User {
			return dspool.Errorf(dspool.Conflict, "connection %s is another user's", dspool.Quote(req.Connection))
		}
		return nil
	} else if dspool.ErrorCode(err) != dspool.NotFound {
		return err
	}
	conn := dspool.Connection{
		ID: req.Connection, Session: s.ID, User: s.User, Protocol: req.Protocol, From: dspool.Clip(req.From), Auth: dspool.Clip(req.Auth), Login: dspool.Clip(req.Login), Started: w.Now(),
	}
	if err := w.AddConnection(conn); err != nil {
		return err
	}
	s.LastActive = w.Now()
	if err := w.UpdateSession(s); err != nil {
		return err
	}
	w.wake(topicPlan, TopicSession(s.ID))
	return w.event(dspool.Event{
		Actor: s.User, Kind: "session.login", Pool: s.Pool, Machine: s.Machine, User: s.User,
		Message: fmt.Sprintf("%s came in by %s from %s with %s", s.User, conn.Protocol, conn.From, conn.Auth),
	})
}

func (w *work) newSession(user dspool.User, pool dspool.Pool, size string, request dspool.Resources) (s store.SessionRow, err error) {
	s.User, s.Pool, s.Size, s.UID, s.State = user.Name, pool.Name, size, user.UID, dspool.SessionWaiting
	s.Created, s.LastActive, s.Reason, s.Request = w.Now(), w.Now(), dspool.Reason{Code: dspool.WhyLooking}, request
	return s, w.InsertSession(&s)
}

// leave ends a connection that gave up waiting.
func (c *Control) leave(connection string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.base), 5*time.Second)
	defer cancel()
	err := c.ReportConnections(ctx, []api.ConnectionReport{{ID: connection, Ended: true, Why: dspool.Reason{Code: dspool.WhyGaveUpWaiting}}})
	if err != nil {
		c.Log.Error("record that a connection ended", "err", err)
	}
}

// sessionStep says how far a session has come.
func (c *Control) sessionStep(ctx context.Context, id int64) (st api.SessionStep, err error) {
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		s, err := tx.Session(id)
		if err != nil {
			return err
		}
		st.Session = id
		defer func() { st.Reason = toUser(s.User, st.Reason) }()
		switch s.State {
		case dspool.SessionWaiting:
			st.Reason, st.Position = s.Reason.Or(dspool.Reason{Code: dspool.WhyLooking}), s.Position
			st.Estimate, err = startEstimate(tx, s)
			return err
		case dspool.SessionPlaced:
			st.Reason = dspool.Why(dspool.WhyPreparing, dspool.ReasonParams{Machine: s.Machine})
			return nil
		case dspool.SessionOpen:
			m, err := tx.Machine(s.Machine)
			if err != nil {
				return err
			}
			pool, err := tx.Pool(s.Pool)
			if err != nil {
				return err
			}
			who, err := accountsOf(tx).of(s.User, s.UID)
			if err != nil {
				return err
			}
			if s.Rights != "" && s.Rights != rightsOf(who) { // the machine is being told what the user may do now
				st.Reason = dspool.Why(dspool.WhyPreparing, dspool.ReasonParams{Machine: s.Machine})
				return nil
			}
			st.Reason = dspool.Why(dspool.WhyOpen, dspool.ReasonParams{Machine: s.Machine})
			if m.HostKey == "" {
				st.Failed = dspool.Errorf(dspool.Conflict, "the machines of pool %s have no OpenSSH server", s.Pool).
					WithHint("add the package openssh-server to the recipe of image %s", m.Image)
				return nil
			}
			st.Ready = &api.MachineAccess{Machine: s.Machine, Address: m.Address + ":" + sshPort, HostKeys: []string{m.HostKey}, Record: pool.Policy.Record, Full: s.Activity.Is(dspool.WhyKilledSome)}
			st.Ready.Rights, err = accessOf(tx, who)
			if err != nil {
				return err
			}
			return nil
		}
		st.Reason = toUser(s.User, s.Reason.Or(dspool.Reason{Code: dspool.WhyClosed}))
		st.Failed = dspool.Errorf(dspool.Unavailable, "the session has ended: %s", st.Reason).WithReason(st.Reason)
		return nil
	})
	return st, err
}

// startEstimate is how long it should still take until a waiting session has its machine: the mean of
// the pool's latest starts, less the time the oldest machine of its size that is coming has taken already. It
// is 0, unknown, where none is coming: nobody knows when others leave.
func startEstimate(tx *store.Tx, s store.SessionRow) (dspool.Duration, error) {
	rows, err := tx.Machines(s.Pool, true, 20)
	if err != nil {
		return 0, err
	}
	var sum, age time.Duration
	n := time.Duration(0)
	coming := false
	for _, m := range rows {
		if m.ReadyAt != nil {
			sum += m.ReadyAt.Sub(m.Created)
			n++
		} else if (m.State == dspool.Creating || m.State == dspool.Starting) && (s.Size == "" || s.Size == m.Size) {
			age, coming = max(age, tx.Now().Sub(m.Created)), true
		}
	}
	if n == 0 || !coming {
		return 0, nil
	}
	return dspool.Duration(max(sum/n-age, 100*time.Millisecond).Round(100 * time.Millisecond)), nil
}

// SessionQuery selects sessions; All also those that have closed.
type SessionQuery struct {
	User, Pool string
	All        bool
	Before     int64
	Limit      int
}

// ListSessions lists sessions, newest first: a user's own, an administrator's choice.
func (c *Control) ListSessions(ctx context.Context, who auth.Subject, q SessionQuery) (list api.List[dspool.Session], err error) {
	f := store.SessionFilter{User: q.User, Pool: q.Pool, All: q.All, Before: q.Before}
	list.Items = []dspool.Session{}
	if !who.Admin {
		if f.User != "" && f.User != who.User {
			return list, nil
		}
		f.User = who.User
	}
	limit := pageSize(q.Limit)
	f.Limit = limit + 1
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Sessions(f)
		for i, r := range rows {
			if !auth.CanOld(who, auth.See, auth.Session, r.User, r.UID) {
				break // and so are all that are older
			}
			if i == limit {
				list.More = true
				break
			}
			list.Items = append(list.Items, showSession(who, r.Session))
		}
		return err
	})
	return list, err
}

func seenSession(tx *store.Tx, who auth.Subject, id int64) (store.SessionRow, error) {
	s, err := tx.Session(id)
	if dspool.ErrorCode(err) == dspool.NotFound || (err == nil && !auth.CanOld(who, auth.See, auth.Session, s.User, s.UID)) {
		return store.SessionRow{}, hidden("session", strconv.FormatInt(id, 10))
	}
	return s, err
}

// Session shows one session.
func (c *Control) Session(ctx context.Context, who auth.Subject, id int64) (d api.SessionDetail, err error) {
	d.Open, d.Events = []dspool.Connection{}, []dspool.Event{}
	err = c.Store.Read(ctx, func(tx *store.Tx) error {
		s, err := seenSession(tx, who, id)
		if err != nil {
			return err
		}
		d.Session = showSession(who, s.Session)
		open, err := tx.OpenConnections(id)
		if err != nil {
			return err
		}
		d.Open = append(d.Open, open...)
		after, until, err := tx.SessionEvents(id)
		if err != nil {
			return err
		}
		events, err := tx.Events(store.EventFilter{After: after, Until: until, Pool: s.Pool, User: s.User, Latest: true, Limit: 200})
		for _, e := range events {
			if e.User == s.User || e.Machine != "" && e.Machine == s.Machine {
				d.Events = append(d.Events, showEvent(who, e))
			}
		}
		return err
	})
	return d, err
}

// KeepSession asks not to end a session for a time, within the pool's policy; on a machine that
// drains it also puts the drain off.
func (c *Control) KeepSession(ctx context.Context, who auth.Subject, id int64, d time.Duration) (out dspool.Session, err error) {
	err = c.write(ctx, func(w *work) error {
		s, err := seenSession(w.Tx, who, id)
		if err != nil {
			return err
		}
		if s.State == dspool.SessionClosing || s.State == dspool.SessionClosed {
			return dspool.Errorf(dspool.Conflict, "session %d is %s", id, s.State)
		}
		pool, err := w.Pool(s.Pool)
		if err != nil {
			return err
		}
		most := cmp.Or(time.Duration(pool.Policy.KeepMost), defaultKeepMost)
		if d < 0 || (d > most && !who.Admin) {
			return dspool.Errorf(dspool.Invalid, "a session of pool %s is kept for at most %s", pool.Name, dspool.Duration(most))
		}
		s.KeepUntil = nil
		if d > 0 {
			t := w.Now().Add(d)
			s.KeepUntil = &t
			if err := w.putOffDrain(s.Machine, t, most); err != nil {
				return err
			}
		}
		if err := w.UpdateSession(s); err != nil {
			return err
		}
		out = showSession(who, s.Session)
		w.wake(topicPlan, TopicSession(id))
		message := fmt.Sprintf("%s keeps session %d for %s", who.Name(), id, dspool.Duration(d))
		return w.event(dspool.Event{Actor: who.Name(), Kind: "session.keep", Pool: s.Pool, Machine: s.Machine, User: s.User, Message: message})
	})
	return out, err
}

const defaultKeepMost = 24 * time.Hour

// CloseSession ends a session and everything of it on its machine.
func (c *Control) CloseSession(ctx context.Context, who auth.Subject, id int64) (op dspool.Operation, err error) {
	err = c.write(ctx, func(w *work) error {
		s, err := seenSession(w.Tx, who, id)
		if err != nil {
			return err
		}
		op = dspool.Operation{ID: auth.NewID(), Kind: opCloseSession, Target: strconv.FormatInt(id, 10), User: who.Name(), State: dspool.OperationRunning, Created: w.Now()}
		if err := w.PutOperation(op); err != nil {
			return err
		}
		if err := w.closeSession(&s, dspool.Why(dspool.WhyClosedBy, dspool.ReasonParams{By: who.Name()})); err != nil {
			return err
		}
		op, err = w.Operation(op.ID)
		return err
	})
	return op, err
}

const opCloseSession = "session.close"

// closeSession begins a session's end: at once where nothing of it is on a machine yet.
func (w *work) closeSession(s *store.SessionRow, why dspool.Reason) error {
	w.wake(topicPlan, topicGateway, TopicSession(s.ID))
	switch s.State {
	case dspool.SessionClosed:
		return w.endOperations(opCloseSession, strconv.FormatInt(s.ID, 10), nil)
	case dspool.SessionClosing:
		return nil
	case dspool.SessionWaiting:
		return w.endSession(s, why, w.Now())
	}
	s.State, s.Reason, s.Close = dspool.SessionClosing, why, why
	if err := w.UpdateSession(*s); err != nil {
		return err
	}
	if err := w.stopApps(s.ID, why); err != nil {
		return err
	}
	w.wake(TopicMachine(s.Machine))
	return w.TouchRevision(s.ID)
}

// endSession records that nothing is left of a session since a time.
func (w *work) endSession(s *store.SessionRow, why dspool.Reason, at time.Time) error {
	from := s.Created
	for _, t := range []*time.Time{s.Placed, s.Opened} {
		if t != nil {
			from = latest(from, *t)
		}
	}
	at = clamp(at, from, w.Now())
	s.State, s.Reason, s.Ended, s.Position = dspool.SessionClosed, why.Or(s.Reason), &at, 0
	if err := w.UpdateSession(*s); err != nil {
		return err
	}
	w.wake(topicPlan, topicGateway, TopicSession(s.ID), topicLeft(s.Machine))
	if err := w.endApps(s.ID, s.Reason); err != nil {
		return err
	}
	if err := w.endOperations(opCloseSession, strconv.FormatInt(s.ID, 10), nil); err != nil {
		return err
	}
	return w.event(dspool.Event{
		Actor: "server", Kind: "session.closed", Pool: s.Pool, Machine: s.Machine, User: s.User,
		Message: fmt.Sprintf("session %d of %s closed", s.ID, s.User), Reason: s.Reason,
	})
}
