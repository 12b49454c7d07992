package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

func connect(t *testing.T, s *store.Store, id string, r store.SessionRow, second int) dspool.Connection {
	t.Helper()
	c := dspool.Connection{ID: id, Session: r.ID, User: r.User, Protocol: dspool.ProtocolSSH, From: "192.0.2.7:50022", Auth: "key SHA256:abc", Started: at(second)}
	write(t, s, func(tx *store.Tx) error { return tx.AddConnection(c) })
	return c
}

func report(t *testing.T, s *store.Store, cs ...dspool.Connection) {
	t.Helper()
	write(t, s, func(tx *store.Tx) error { return tx.UpdateConnections(cs) })
}

var connections = []check{
	{"a connection comes back, and its session counts it while it lasts", func(t *testing.T, s *store.Store) {
		ann, bob := openSession(t, s, "ann", 20000, "lab-1"), openSession(t, s, "bob", 20001, "lab-1")
		// Whatever the clock said.
		early, late, other := connect(t, s, "b", ann, 9), connect(t, s, "a", ann, 8), connect(t, s, "c", bob, 7)
		open := func(session int64) []dspool.Connection {
			return get(t, s, func(tx *store.Tx) ([]dspool.Connection, error) { return tx.OpenConnections(session) })
		}
		same(t, open(ann.ID), []dspool.Connection{early, late})
		same(t, open(0), []dspool.Connection{early, late, other})
		counts := func() (out []int) {
			for _, r := range get(t, s, (*store.Tx).OpenSessions) {
				out = append(out, r.Connections)
			}
			return out
		}
		same(t, counts(), []int{2, 1})
		same(t, session(t, s, ann.ID).Connections, 2)

		early.BytesIn, early.BytesOut, early.Ended = 10, 20, ptr(at(30))
		late.BytesIn = 5
		report(t, s, early, late)
		for _, c := range []dspool.Connection{early, late} {
			same(t, get(t, s, func(tx *store.Tx) (dspool.Connection, error) { return tx.Connection(c.ID) }), c)
		}
		same(t, open(ann.ID), []dspool.Connection{late})
		same(t, counts(), []int{1, 1})
	}},
	{"reports that come twice, late or for strangers do no harm", func(t *testing.T, s *store.Store) {
		c := connect(t, s, "a", openSession(t, s, "ann", 20000, "lab-1"), 8)
		c.BytesIn, c.BytesOut, c.Ended = 100, 200, ptr(at(20))
		report(t, s, c)
		again, early := c, c
		again.Ended = ptr(at(40))
		early.BytesIn, early.BytesOut, early.Ended = 50, 300, nil
		report(t, s, dspool.Connection{ID: "stranger", BytesIn: 1}, again, early)
		c.BytesOut = 300
		same(t, get(t, s, func(tx *store.Tx) (dspool.Connection, error) { return tx.Connection("a") }), c)
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Connection("stranger"); return err })
	}},
	{"a connection needs a session, and its identifier is its own for ever", func(t *testing.T, s *store.Store) {
		r := openSession(t, s, "ann", 20000, "lab-1")
		c := connect(t, s, "a", r, 8)
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.AddConnection(c) })
		c.Ended = ptr(at(9))
		report(t, s, c)
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.AddConnection(c) })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.AddConnection(dspool.Connection{ID: "b", Session: r.ID + 1}) })
		write(t, s, func(tx *store.Tx) error {
			if err := tx.AddConnection(dspool.Connection{ID: "c", Session: r.ID}); err != nil {
				return err
			}
			got, err := tx.Connection("c")
			same(t, got.Started, tx.Now())
			return err
		})
	}},
}
