package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

var quarter = dspool.Resources{CPUs: 0.25, Memory: 1 << 29}

// openSession adds a session of user with its uid in pool lab, open on a machine since at(5); "" is waiting.
func openSession(t *testing.T, s *store.Store, user string, uid int, machine string) store.SessionRow {
	t.Helper()
	r := store.SessionRow{Session: dspool.Session{User: user, Pool: "lab", State: dspool.SessionWaiting, Request: quarter, Created: at(4)}, UID: uid, Share: 0.25}
	if machine != "" {
		r.Machine, r.State, r.Placed, r.Opened = machine, dspool.SessionOpen, ptr(at(5)), ptr(at(6))
	}
	write(t, s, func(tx *store.Tx) error { return tx.InsertSession(&r) })
	return r
}

func update(t *testing.T, s *store.Store, r store.SessionRow) {
	t.Helper()
	write(t, s, func(tx *store.Tx) error { return tx.UpdateSession(r) })
}

func closeSession(t *testing.T, s *store.Store, r store.SessionRow, second int) {
	t.Helper()
	r.State, r.Ended = dspool.SessionClosed, ptr(at(second))
	update(t, s, r)
}

func session(t *testing.T, s *store.Store, id int64) store.SessionRow {
	t.Helper()
	return get(t, s, func(tx *store.Tx) (store.SessionRow, error) { return tx.Session(id) })
}

func touch(t *testing.T, s *store.Store, id int64) {
	t.Helper()
	write(t, s, func(tx *store.Tx) error { return tx.TouchRevision(id) })
}

func sessionIDs(rs []store.SessionRow) (out []int64) {
	for _, r := range rs {
		out = append(out, r.ID)
	}
	return out
}

// sessionsSince returns the sessions told to a machine and the revision to go on from.
func sessionsSince(t *testing.T, s *store.Store, machine string, after int64) (rows []store.SessionRow, revision int64) {
	t.Helper()
	read(t, s, func(tx *store.Tx) (err error) {
		rows, revision, err = tx.SessionsSince(machine, after)
		return err
	})
	return rows, revision
}

var sessions = []check{
	{"a session comes back as it was inserted and updated", func(t *testing.T, s *store.Store) {
		r := store.SessionRow{Session: dspool.Session{User: "ann", Pool: "lab", Size: "large", Reason: testkit.Stated("no machine is free"), Position: 3, Request: quarter}, UID: 20000}
		write(t, s, func(tx *store.Tx) error {
			err := tx.InsertSession(&r)
			if r.ID != 1 || r.State != dspool.SessionWaiting || r.Created != tx.Now() {
				t.Errorf("inserted %+v", r)
			}
			return err
		})
		same(t, session(t, s, 1), r)
		r.Machine, r.State, r.Reason, r.Position = "lab-1", dspool.SessionOpen, dspool.Reason{}, 0
		r.Request, r.Share = dspool.Resources{CPUs: 0.1, Memory: 5, GPUs: 1}, 0.3
		r.Active, r.Activity, r.LastActive, r.KeepUntil = true, testkit.Stated("python3 uses 97 % of a cpu"), at(7), ptr(at(50))
		r.Placed, r.Opened, r.Close = ptr(at(5)), ptr(at(6)), testkit.Stated("ann was removed")
		update(t, s, r)
		same(t, session(t, s, 1), r)
		closeSession(t, s, r, 9)
		r.State, r.Ended = dspool.SessionClosed, ptr(at(9))
		same(t, session(t, s, 1), r)
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Session(2); return err })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.UpdateSession(store.SessionRow{}) })
	}},
	{"whose a session is stays as inserted", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "lab")
		r := openSession(t, s, "ann", 20000, m.Name)
		touch(t, s, r.ID)
		r = session(t, s, r.ID)
		changed := r
		changed.User, changed.UID, changed.Pool, changed.Size, changed.Created, changed.Revision, changed.Connections = "bob", 1, "x", "large", at(1), 0, 9
		update(t, s, changed)
		same(t, session(t, s, r.ID), r)
	}},
	{"a user has one session in a pool that has not closed, whatever is tried", func(t *testing.T, s *store.Store) {
		first := openSession(t, s, "ann", 20000, "")
		insert := func(tx *store.Tx) error {
			return tx.InsertSession(&store.SessionRow{Session: dspool.Session{User: "ann", Pool: "lab"}, UID: 20000})
		}
		refused(t, s, dspool.Conflict, insert)
		for _, st := range []dspool.SessionState{dspool.SessionPlaced, dspool.SessionOpen, dspool.SessionClosing} {
			first.State = st
			update(t, s, first)
			refused(t, s, dspool.Conflict, insert)
		}
		// A conflict leaves the transaction usable: who loses a race joins the winner's session.
		write(t, s, func(tx *store.Tx) error {
			if err := insert(tx); dspool.ErrorCode(err) != dspool.Conflict {
				t.Errorf("error is %v", err)
			}
			return tx.InsertSession(&store.SessionRow{Session: dspool.Session{User: "ann", Pool: "other"}, UID: 20000})
		})
		openSession(t, s, "bob", 20001, "")
		closeSession(t, s, first, 9)
		if next := openSession(t, s, "ann", 20000, ""); next.ID != 4 {
			t.Errorf("identifier is %d, want 4", next.ID)
		}
		first.State = dspool.SessionOpen
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.UpdateSession(first) })
	}},
	{"a session is its user's, not that of another who has got the name", func(t *testing.T, s *store.Store) {
		ann := addUser(t, s, "ann")
		of := func(user, pool string) (r store.SessionRow, found bool) {
			read(t, s, func(tx *store.Tx) (err error) {
				r, found, err = tx.SessionOf(user, pool)
				return err
			})
			return r, found
		}
		old := openSession(t, s, "ann", ann.UID, "lab-1")
		if r, found := of("ann", "lab"); !found || r.ID != old.ID {
			t.Errorf("found %v %+v", found, r)
		}
		for _, c := range [][2]string{{"ann", "other"}, {"bob", "lab"}, {"", ""}} {
			if r, found := of(c[0], c[1]); found {
				t.Errorf("found %+v for %v", r, c)
			}
		}
		write(t, s, func(tx *store.Tx) error { return tx.RemoveUser("ann") })
		again := addUser(t, s, "ann")
		if r, found := of("ann", "lab"); found {
			t.Errorf("the new ann gets %+v", r)
		}
		fresh := openSession(t, s, "ann", again.UID, "")
		if r, found := of("ann", "lab"); !found || r.ID != fresh.ID {
			t.Errorf("found %v %+v", found, r)
		}
		closeSession(t, s, fresh, 9)
		if _, found := of("ann", "lab"); found {
			t.Error("found a closed one")
		}
	}},
	{"lists hold the sessions they should, in order", func(t *testing.T, s *store.Store) {
		for i, user := range []string{"ann", "bob", "ann", "cyd", "ann", "bob"} {
			r := openSession(t, s, user, 20000+i, "lab-1")
			if i%3 == 0 { // 1 and 4
				closeSession(t, s, r, 9)
			}
		}
		openSession(t, s, "dan", 20100, "")
		same(t, sessionIDs(get(t, s, (*store.Tx).OpenSessions)), []int64{2, 3, 5, 6, 7})
		for _, c := range []struct {
			f    store.SessionFilter
			want []int64
		}{
			{store.SessionFilter{}, []int64{7, 6, 5, 3, 2}},
			{store.SessionFilter{All: true}, []int64{7, 6, 5, 4, 3, 2, 1}},
			{store.SessionFilter{All: true, Before: 5, Limit: 2}, []int64{4, 3}},
			{store.SessionFilter{Limit: 2}, []int64{7, 6}},
			{store.SessionFilter{User: "ann"}, []int64{5, 3}},
			{store.SessionFilter{User: "ann", All: true}, []int64{5, 3, 1}},
			{store.SessionFilter{Machine: "lab-1", Before: 6}, []int64{5, 3, 2}},
			{store.SessionFilter{Pool: "lab", User: "cyd"}, nil},
			{store.SessionFilter{Pool: "lab", User: "cyd", All: true}, []int64{4}},
			{store.SessionFilter{Pool: "other", All: true}, nil},
		} {
			same(t, sessionIDs(get(t, s, func(tx *store.Tx) ([]store.SessionRow, error) { return tx.Sessions(c.f) })), c.want)
		}
	}},
	{"a machine is told of what changed, once, in one count with its claims", func(t *testing.T, s *store.Store) {
		m, n := addMachine(t, s, "lab"), addMachine(t, s, "lab")
		a, b := openSession(t, s, "ann", 20000, m.Name), openSession(t, s, "bob", 20001, m.Name)
		told, rev := sessionsSince(t, s, m.Name, 0)
		if len(told) != 0 || rev != 0 {
			t.Errorf("told %v of revision %d before any was given", sessionIDs(told), rev)
		}
		touch(t, s, b.ID)
		touch(t, s, a.ID)
		told, rev = sessionsSince(t, s, m.Name, 0)
		same(t, sessionIDs(told), []int64{a.ID, b.ID})
		if told[0].Revision != rev || told[1].Revision >= rev {
			t.Errorf("revision %d with %+v", rev, told)
		}
		told, again := sessionsSince(t, s, m.Name, rev)
		same(t, sessionIDs(told), nil)
		same(t, again, rev)
		if _, other := sessionsSince(t, s, n.Name, 0); other != 0 {
			t.Errorf("the other machine is at %d", other)
		}

		place(t, s, 1, m.Name, 0)
		_, afterClaim := sessionsSince(t, s, m.Name, rev)
		if afterClaim <= rev {
			t.Errorf("a claim left the revision at %d", afterClaim)
		}
		touch(t, s, b.ID)
		told, rev = sessionsSince(t, s, m.Name, afterClaim)
		same(t, sessionIDs(told), []int64{b.ID})
		read(t, s, func(tx *store.Tx) error {
			as, both, err := tx.ClaimsSince(m.Name, afterClaim)
			same(t, both, rev)
			same(t, len(as), 0)
			return err
		})
		closeSession(t, s, a, 9)
		told, _ = sessionsSince(t, s, m.Name, 0)
		same(t, sessionIDs(told), []int64{b.ID})
		missing(t, s, func(tx *store.Tx) error { _, _, err := tx.SessionsSince("no", 0); return err })
	}},
	{"who may do other things is told of wherever something of the user is", func(t *testing.T, s *store.Store) {
		m, n, other := addMachine(t, s, "lab"), addMachine(t, s, "batch"), addMachine(t, s, "batch")
		addUser(t, s, "ann")
		a := openSession(t, s, "ann", 20000, m.Name)
		place(t, s, 1, n.Name, 0, 1)
		end(t, s, place(t, s, 1, other.Name, 2), at(6))
		openSession(t, s, "zoe", 20009, other.Name)
		_, before := sessionsSince(t, s, other.Name, 0)
		_, since := sessionsSince(t, s, n.Name, 0)
		write(t, s, func(tx *store.Tx) error {
			machines, err := tx.TouchUser("ann")
			same(t, machines, []string{n.Name, m.Name})
			return err
		})
		told, _ := sessionsSince(t, s, m.Name, before)
		same(t, sessionIDs(told), []int64{a.ID})
		read(t, s, func(tx *store.Tx) error {
			as, _, err := tx.ClaimsSince(n.Name, since)
			same(t, len(as), 2)
			return err
		})
		if _, after := sessionsSince(t, s, other.Name, 0); after != before {
			t.Errorf("a machine with nothing of hers hears of it: revision %d after %d", after, before)
		}
		write(t, s, func(tx *store.Tx) error {
			machines, err := tx.TouchUser("nobody")
			same(t, machines, nil)
			return err
		})
	}},
	{"nobody can be told of a session that has no machine", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "lab")
		r := openSession(t, s, "ann", 20000, "")
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.TouchRevision(r.ID) })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.TouchRevision(r.ID + 1) })
		r.Machine, r.State = m.Name, dspool.SessionPlaced
		write(t, s, func(tx *store.Tx) error {
			if err := tx.UpdateSession(r); err != nil {
				return err
			}
			return tx.TouchRevision(r.ID)
		})
		told, _ := sessionsSince(t, s, m.Name, 0)
		same(t, sessionIDs(told), []int64{r.ID})
	}},
	{"sessions hold their part of a machine from placed to closed, beside claims", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "lab")
		openSession(t, s, "zoe", 20009, "") // waits and holds nothing
		r := openSession(t, s, "ann", 20000, m.Name)
		for _, st := range []dspool.SessionState{dspool.SessionPlaced, dspool.SessionOpen, dspool.SessionClosing} {
			r.State = st
			update(t, s, r)
			for _, got := range append(get(t, s, (*store.Tx).LiveMachines), machine(t, s, m.Name)) {
				same(t, got.Used, quarter)
				same(t, got.Claims, 1)
				same(t, got.IdleSince, nil)
			}
		}
		as := place(t, s, 1, m.Name, 0)
		b := openSession(t, s, "bob", 20001, m.Name)
		same(t, machine(t, s, m.Name).Used, dspool.Resources{CPUs: 0.6, Memory: 3 << 29, GPUs: 1})
		same(t, machine(t, s, m.Name).Claims, 3)
		closeSession(t, s, r, 30)
		end(t, s, as, at(20))
		same(t, machine(t, s, m.Name).IdleSince, nil)
		closeSession(t, s, b, 25)
		got := machine(t, s, m.Name)
		same(t, got.Used, dspool.Resources{})
		same(t, got.IdleSince, ptr(at(30)))
	}},
	{"a session that closes without an end ends now", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "lab")
		r := openSession(t, s, "ann", 20000, m.Name)
		r.State = dspool.SessionClosed
		write(t, s, func(tx *store.Tx) error {
			if err := tx.UpdateSession(r); err != nil {
				return err
			}
			got, err := tx.Session(r.ID)
			same(t, got.Ended, ptr(tx.Now()))
			m, merr := tx.Machine(m.Name)
			same(t, m.IdleSince, ptr(tx.Now()))
			if err == nil {
				err = merr
			}
			return err
		})
	}},
}
