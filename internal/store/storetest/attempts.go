package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

func attempt(job, index int64, machines ...string) store.AttemptRow {
	a := store.AttemptRow{Job: job, Index: index, User: "ann"}
	for _, m := range machines {
		a.Claims = append(a.Claims, store.ClaimRow{Machine: m, Request: dspool.Resources{CPUs: 0.1, Memory: 1 << 29, GPUs: 1}})
	}
	return a
}

func insert(t *testing.T, s *store.Store, as ...store.AttemptRow) (out []store.AttemptRow) {
	t.Helper()
	write(t, s, func(tx *store.Tx) (err error) {
		out, err = tx.InsertAttempts(as)
		return err
	})
	return out
}

// place places tasks of a job on a machine.
func place(t *testing.T, s *store.Store, job int64, machine string, indices ...int64) []store.AttemptRow {
	t.Helper()
	var as []store.AttemptRow
	for _, i := range indices {
		as = append(as, attempt(job, i, machine))
	}
	return insert(t, s, as...)
}

// end makes attempts that began at(5) succeed.
func end(t *testing.T, s *store.Store, as []store.AttemptRow, when time.Time) {
	t.Helper()
	var ended []store.AttemptRow
	for _, a := range as {
		a.State, a.ExitCode, a.Started, a.Ended = dspool.TaskSucceeded, ptr(0), ptr(at(5)), &when
		a.Claims = append([]store.ClaimRow(nil), a.Claims...)
		for i := range a.Claims {
			a.Claims[i].Started, a.Claims[i].Ended = ptr(at(5)), &when
		}
		ended = append(ended, a)
	}
	write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts(ended) })
}

func byID(t *testing.T, s *store.Store, ids ...int64) []store.AttemptRow {
	t.Helper()
	return get(t, s, func(tx *store.Tx) ([]store.AttemptRow, error) { return tx.Attempts(ids) })
}

func attemptIDs(as []store.AttemptRow) (out []int64) {
	for _, a := range as {
		out = append(out, a.ID)
	}
	return out
}

var attempts = []check{
	{"an attempt comes back as inserted and updated, with all its claims", func(t *testing.T, s *store.Store) {
		m, n := addMachine(t, s, "batch"), addMachine(t, s, "batch")
		as := insert(t, s, attempt(1, 7, n.Name, m.Name), attempt(2, 7, m.Name))
		want := attempt(1, 7, n.Name, m.Name)
		want.ID, want.Number, want.State, want.Assigned = 1, 1, dspool.TaskAssigned, as[0].Assigned
		for i := range want.Claims {
			c := &want.Claims[i]
			c.Attempt, c.Rank, c.Desired, c.Revision = 1, i, store.Run, as[0].Claims[0].Revision
		}
		if want.Assigned.IsZero() || as[0].Claims[0].Revision == 0 {
			t.Errorf("no time or no revision: %+v", as[0])
		}
		same(t, as[0], want)
		same(t, byID(t, s, 2, 1), as)

		a := as[0]
		a.State, a.Started, a.Claims[1].Started = dspool.TaskRunning, ptr(at(1)), ptr(at(2))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts([]store.AttemptRow{a}) })
		same(t, byID(t, s, 1), []store.AttemptRow{a})
		a.State, a.ExitCode, a.Reason, a.Ended = dspool.TaskFailed, ptr(137), dspool.Why(dspool.WhyOutOfMemory, dspool.ReasonParams{Bytes: 1 << 30}), ptr(at(3))
		a.Claims[0].Ended, a.Claims[1].Ended = ptr(at(3)), ptr(at(4))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts([]store.AttemptRow{a}) })
		same(t, byID(t, s, 1, 1, 99), []store.AttemptRow{a})
	}},
	{"an update leaves alone what it does not write", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		want := place(t, s, 1, m.Name, 0)
		changed := want[0]
		changed.Job, changed.Index, changed.Number, changed.User, changed.Assigned = 9, 9, 9, "eve", at(9)
		changed.Claims = []store.ClaimRow{{Machine: "x", Request: dspool.Resources{CPUs: 9}, Desired: store.Cancel, Revision: 99, Why: testkit.Stated("x")}}
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts([]store.AttemptRow{changed}) })
		same(t, byID(t, s, 1), want)
	}},
	{"an attempt that ended holds nothing, whatever its claims say", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		as := place(t, s, 1, m.Name, 0, 1)
		for i := range as {
			as[i].State, as[i].Ended = dspool.TaskLost, ptr(at(8))
		}
		as[1].Claims = nil
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts(as) })
		for _, a := range byID(t, s, 1, 2) {
			same(t, a.Claims[0].Ended, ptr(at(8)))
		}
		same(t, machine(t, s, m.Name).IdleSince, ptr(at(8)))
	}},
	{"a task has one living attempt, and its attempts count up", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		for want := 1; want <= 3; want++ {
			as := place(t, s, 1, m.Name, 4, 5)
			same(t, []int{as[0].Number, as[1].Number}, []int{want, want})
			refused(t, s, dspool.Conflict, func(tx *store.Tx) error {
				_, err := tx.InsertAttempts([]store.AttemptRow{attempt(1, 3, m.Name), attempt(1, 5, m.Name)})
				return err
			})
			end(t, s, as, at(6))
		}
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error {
			_, err := tx.InsertAttempts([]store.AttemptRow{attempt(1, 6, m.Name), attempt(1, 6, m.Name)})
			return err
		})
		same(t, place(t, s, 2, m.Name, 5)[0].Number, 1)
	}},
	{"placing on nothing, or on a machine that never was, is refused", func(t *testing.T, s *store.Store) {
		addMachine(t, s, "batch")
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error {
			_, err := tx.InsertAttempts([]store.AttemptRow{attempt(1, 1, "batch-1", "batch-2")})
			return err
		})
		refused(t, s, dspool.Internal, func(tx *store.Tx) error { _, err := tx.InsertAttempts([]store.AttemptRow{attempt(1, 1)}); return err })
		same(t, len(insert(t, s)), 0)
	}},
	{"updating what does not exist is refused", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		a := place(t, s, 1, m.Name, 0)[0]
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.UpdateAttempts([]store.AttemptRow{{ID: 9}}) })
		a.Claims[0].Rank = 3
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.UpdateAttempts([]store.AttemptRow{a}) })
	}},
	{"a recalled attempt leaves its task as if never placed, but its number is not given again", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		as := place(t, s, 1, m.Name, 0, 1)
		var when time.Time
		write(t, s, func(tx *store.Tx) error {
			when = tx.Now()
			return tx.DeleteAttempts([]int64{as[1].ID, 99})
		})
		same(t, byID(t, s, 1, 2), as[:1])
		write(t, s, func(tx *store.Tx) error { return tx.DeleteAttempts([]int64{as[0].ID}) })
		if idle := machine(t, s, m.Name).IdleSince; idle == nil || idle.Before(when) {
			t.Errorf("machine is idle since %v, but was held until %v", idle, when)
		}
		again := place(t, s, 1, m.Name, 1)
		same(t, again[0].ID, int64(3))
		same(t, again[0].Number, 1)
	}},
	{"an attempt that must be paid for is not forgotten", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		as := place(t, s, 1, m.Name, 0, 1)
		as[1].State, as[1].Claims[0].Started = dspool.TaskRunning, ptr(at(2))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts(as) })
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.DeleteAttempts([]int64{1, 2}) })
		same(t, byID(t, s, 1, 2), as)
	}},
	{"open attempts are found by machine and by job", func(t *testing.T, s *store.Store) {
		m, n := addMachine(t, s, "batch"), addMachine(t, s, "batch")
		as := insert(t, s, attempt(1, 9, m.Name), attempt(2, 0, n.Name), attempt(1, 3, n.Name, m.Name), attempt(1, 1, n.Name))
		end(t, s, as[3:], at(6))
		for machine, want := range map[string][]int64{"": {1, 2, 3}, m.Name: {1, 3}, n.Name: {2, 3}, "x": nil} {
			got := get(t, s, func(tx *store.Tx) ([]store.AttemptRow, error) { return tx.OpenAttempts(machine) })
			same(t, attemptIDs(got), want)
			for _, a := range got {
				same(t, a, as[a.ID-1])
			}
		}
		for job, want := range map[int64][]int64{1: {1, 3}, 2: {2}, 3: nil} {
			got := get(t, s, func(tx *store.Tx) ([]store.AttemptRow, error) { return tx.OpenAttemptsOfJob(job) })
			same(t, attemptIDs(got), want)
		}
	}},
	{"batches of any size come back whole and in order", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		next := int64(0)
		for _, n := range []int{1, 2, 4, 5, 63, 64, 65, 255, 256, 257, 600} {
			var as []store.AttemptRow
			var ids []int64
			for range n {
				as = append(as, attempt(1, next, m.Name))
				next++
			}
			as = insert(t, s, as...)
			for _, a := range as {
				ids = append(ids, a.ID)
			}
			same(t, byID(t, s, ids...), as)
			end(t, s, as, at(6))
		}
		all := get(t, s, func(tx *store.Tx) ([]dspool.Task, error) { return tx.Tasks(1, store.TaskFilter{After: -1}) })
		same(t, int64(len(all)), next)
	}},
}

var claims = []check{
	{"claims since a revision are what is new to the machine", func(t *testing.T, s *store.Store) {
		m, n := addMachine(t, s, "batch"), addMachine(t, s, "batch")
		since := func(machine string, after int64) (ids []int64, revision int64) {
			read(t, s, func(tx *store.Tx) error {
				as, rev, err := tx.ClaimsSince(machine, after)
				ids, revision = attemptIDs(as), rev
				return err
			})
			return ids, revision
		}
		ids, r0 := since(m.Name, 0)
		same(t, ids, nil)
		same(t, r0, int64(0))

		as := append(place(t, s, 1, m.Name, 0, 1, 2), place(t, s, 1, n.Name, 3)...)
		ids, r1 := since(m.Name, r0)
		same(t, ids, []int64{1, 2, 3})
		if ids, r := since(m.Name, r1); len(ids) != 0 || r != r1 {
			t.Errorf("asked again: %v, revision %d after %d", ids, r, r1)
		}
		_, rn := since(n.Name, 0)

		write(t, s, func(tx *store.Tx) error {
			return tx.SetDesired([]int64{2, 99}, store.Cancel, testkit.Stated("ann cancelled it"))
		})
		ids, r2 := since(m.Name, r1)
		same(t, ids, []int64{2})
		if r2 <= r1 {
			t.Errorf("revision %d after %d", r2, r1)
		}
		if ids, r := since(n.Name, rn); len(ids) != 0 || r != rn {
			t.Errorf("the other machine hears of it: %v, revision %d after %d", ids, r, rn)
		}
		c := byID(t, s, 2)[0].Claims[0]
		same(t, []any{c.Desired, c.Why, c.Revision}, []any{store.Cancel, testkit.Stated("ann cancelled it"), r2})

		// The same wish again is no news; nor is a wish about what has ended.
		write(t, s, func(tx *store.Tx) error {
			return tx.SetDesired([]int64{2}, store.Cancel, testkit.Stated("ann cancelled it"))
		})
		end(t, s, as[:1], at(6))
		write(t, s, func(tx *store.Tx) error { return tx.SetDesired([]int64{1}, store.Recall, testkit.Stated("x")) })
		if ids, r := since(m.Name, r2); len(ids) != 0 || r != r2 {
			t.Errorf("news of nothing: %v, revision %d after %d", ids, r, r2)
		}
		same(t, byID(t, s, 1)[0].Claims[0].Desired, store.Run)

		// A machine that remembers nothing is told of all that has not ended.
		ids, _ = since(m.Name, 0)
		same(t, ids, []int64{2, 3})
		missing(t, s, func(tx *store.Tx) error { _, _, err := tx.ClaimsSince("x", 0); return err })
	}},
	{"revisions only grow, even when what had them is deleted", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		last := int64(0)
		for i := range int64(20) {
			as := place(t, s, 1, m.Name, i)
			got := as[0].Claims[0].Revision
			if got <= last {
				t.Fatalf("revision %d after %d", got, last)
			}
			write(t, s, func(tx *store.Tx) error {
				return tx.SetDesired([]int64{as[0].ID}, store.Recall, testkit.Stated("elsewhere"))
			})
			write(t, s, func(tx *store.Tx) error { return tx.DeleteAttempts([]int64{as[0].ID}) })
			read(t, s, func(tx *store.Tx) error {
				as, rev, err := tx.ClaimsSince(m.Name, 0)
				if len(as) != 0 || rev != got+1 {
					t.Errorf("%d attempts, revision %d", len(as), rev)
				}
				last = rev
				return err
			})
		}
	}},
	{"a wish reaches every machine of an attempt", func(t *testing.T, s *store.Store) {
		m, n := addMachine(t, s, "batch"), addMachine(t, s, "batch")
		insert(t, s, attempt(1, 0, m.Name, n.Name))
		write(t, s, func(tx *store.Tx) error { return tx.SetDesired([]int64{1}, store.Cancel, testkit.Stated("x")) })
		for _, name := range []string{m.Name, n.Name} {
			read(t, s, func(tx *store.Tx) error {
				as, rev, err := tx.ClaimsSince(name, 1)
				if len(as) != 1 || rev != 2 {
					return fmt.Errorf("%s: %v, revision %d: %w", name, as, rev, err)
				}
				return err
			})
		}
	}},
}
