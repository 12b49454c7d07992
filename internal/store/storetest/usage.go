package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

var usage = []check{
	{"machine intervals last from creation to end, cut to the range", func(t *testing.T, s *store.Store) {
		for i := range 4 {
			write(t, s, func(tx *store.Tx) error {
				name, err := tx.NextMachineName("batch")
				if err != nil {
					return err
				}
				m := store.MachineRow{Machine: dspool.Machine{Name: name, Pool: "batch", Resources: small, Price: 0.5, State: dspool.Ready, Created: at(10 * i)}}
				if i < 2 {
					m.State, m.Ended = dspool.Gone, ptr(at(10*i+15))
				}
				return tx.InsertMachine(m)
			})
		}
		row := func(name string, from, to int) store.MachineInterval {
			return store.MachineInterval{Machine: name, Pool: "batch", Resources: small, Price: 0.5, From: at(from), To: at(to)}
		}
		for _, c := range []struct {
			from, to int
			want     []store.MachineInterval
		}{
			{0, 40, []store.MachineInterval{row("batch-1", 0, 15), row("batch-2", 10, 25), row("batch-3", 20, 40), row("batch-4", 30, 40)}},
			{12, 22, []store.MachineInterval{row("batch-1", 12, 15), row("batch-2", 12, 22), row("batch-3", 20, 22)}},
			{15, 20, []store.MachineInterval{row("batch-2", 15, 20)}},
			{9, 9, nil},
			{20, 10, nil},
		} {
			same(t, get(t, s, func(tx *store.Tx) ([]store.MachineInterval, error) { return tx.MachineIntervals(at(c.from), at(c.to)) }), c.want)
		}
	}},
	{"claim intervals last from start to end, cut to the range", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		as := place(t, s, 7, m.Name, 0, 1, 2)
		end(t, s, as[:1], at(20)) // from 5 to 20
		as[1].Claims[0].Started = ptr(at(10))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts(as[1:2]) }) // from 10 on; the third never started
		row := func(from, to int) store.ClaimInterval {
			return store.ClaimInterval{Machine: m.Name, User: "ann", Job: 7, Request: as[0].Claims[0].Request, From: at(from), To: at(to)}
		}
		carried := func(c store.ClaimInterval) store.ClaimInterval {
			c.Carried = true
			return c
		}
		for _, c := range []struct {
			from, to int
			want     []store.ClaimInterval
		}{
			{0, 30, []store.ClaimInterval{row(5, 20), row(10, 30)}},
			{6, 12, []store.ClaimInterval{carried(row(6, 12)), row(10, 12)}},
			{20, 21, []store.ClaimInterval{carried(row(20, 21))}},
			{0, 5, nil},
		} {
			same(t, get(t, s, func(tx *store.Tx) ([]store.ClaimInterval, error) { return tx.ClaimIntervals(at(c.from), at(c.to)) }), c.want)
		}
	}},
	{"session intervals last from the place on a machine to the end, cut to the range", func(t *testing.T, s *store.Store) {
		ann, bob := openSession(t, s, "ann", 20000, "lab-1"), openSession(t, s, "bob", 20001, "lab-2") // from 5 on
		closeSession(t, s, ann, 20)
		closeSession(t, s, openSession(t, s, "cyd", 20002, ""), 20) // left before there was a machine
		openSession(t, s, "dan", 20003, "")
		row := func(r store.SessionRow, from, to int) store.SessionInterval {
			return store.SessionInterval{Machine: r.Machine, User: r.User, UID: r.UID, Session: r.ID, Request: quarter, From: at(from), To: at(to)}
		}
		for _, c := range []struct {
			from, to int
			want     []store.SessionInterval
		}{
			{0, 30, []store.SessionInterval{row(ann, 5, 20), row(bob, 5, 30)}},
			{6, 12, []store.SessionInterval{row(ann, 6, 12), row(bob, 6, 12)}},
			{20, 21, []store.SessionInterval{row(bob, 20, 21)}},
			{0, 5, nil},
			{9, 9, nil},
		} {
			same(t, get(t, s, func(tx *store.Tx) ([]store.SessionInterval, error) { return tx.SessionIntervals(at(c.from), at(c.to)) }), c.want)
		}
	}},
	{"nothing is billed beyond now", func(t *testing.T, s *store.Store) {
		write(t, s, func(tx *store.Tx) error {
			now := tx.Now()
			return tx.InsertMachine(store.MachineRow{Machine: dspool.Machine{Name: "batch-1", State: dspool.Ready, Created: now}})
		})
		read(t, s, func(tx *store.Tx) error {
			rows, err := tx.MachineIntervals(at(0), tx.Now().AddDate(1, 0, 0))
			for _, r := range rows {
				if r.To.After(tx.Now()) {
					t.Errorf("it lasts until %v, and now is %v", r.To, tx.Now())
				}
			}
			return err
		})
	}},
}
