package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

const batch = 250

func openBench(b *testing.B) *store.Store {
	s, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func write(b *testing.B, s *store.Store, fn func(*store.Tx) error) {
	b.Helper()
	if err := s.Write(b.Context(), fn); err != nil {
		b.Fatal(err)
	}
}

func addMachines(n int) func(*store.Tx) error {
	return func(tx *store.Tx) error {
		for range n {
			name, err := tx.NextMachineName("batch")
			if err != nil {
				return err
			}
			now := tx.Now()
			m := store.MachineRow{Machine: dspool.Machine{Name: name, Pool: "batch", Size: "small", State: dspool.Ready,
				Resources: dspool.Resources{CPUs: 1, Memory: 2 << 30}, Price: 0.1, Reason: dspool.Why(dspool.WhyJobWaits, dspool.ReasonParams{Job: 1}), ReadyAt: &now}}
			if err := tx.InsertMachine(m); err != nil {
				return err
			}
		}
		return nil
	}
}

func placement(job, first int64, n, machines int) []store.AttemptRow {
	as := make([]store.AttemptRow, n)
	for i := range as {
		as[i] = store.AttemptRow{Job: job, Index: first + int64(i), User: "ann", Claims: []store.ClaimRow{{
			Machine: fmt.Sprintf("batch-%d", i%machines+1), Request: dspool.Resources{CPUs: 0.5, Memory: 512 << 20}}}}
	}
	return as
}

func finish(as []store.AttemptRow, now time.Time) {
	code := 0
	for i := range as {
		a := &as[i]
		a.State, a.ExitCode, a.Started, a.Ended = dspool.TaskSucceeded, &code, &now, &now
		a.Claims[0].Started, a.Claims[0].Ended = &now, &now
	}
}

func perTransition(b *testing.B) {
	b.ReportMetric(float64(b.N)*batch/b.Elapsed().Seconds(), "transitions/s")
}

// One operation is one durable transaction.
func BenchmarkPlace250(b *testing.B) {
	s := openBench(b)
	write(b, s, addMachines(8))
	next := int64(0)
	for b.Loop() {
		write(b, s, func(tx *store.Tx) error {
			_, err := tx.InsertAttempts(placement(1, next, batch, 8))
			return err
		})
		next += batch
	}
	perTransition(b)
}

func BenchmarkFinish250(b *testing.B) {
	s := openBench(b)
	write(b, s, addMachines(8))
	var as []store.AttemptRow
	next := int64(0)
	for b.Loop() {
		b.StopTimer()
		write(b, s, func(tx *store.Tx) (err error) {
			as, err = tx.InsertAttempts(placement(1, next, batch, 8))
			return err
		})
		ids := make([]int64, batch)
		for i := range as {
			ids[i] = as[i].ID
		}
		next += batch
		b.StartTimer()
		// As a report is handled: read what it is about, then write.
		write(b, s, func(tx *store.Tx) error {
			as, err := tx.Attempts(ids)
			if err != nil {
				return err
			}
			finish(as, tx.Now())
			return tx.UpdateAttempts(as)
		})
	}
	perTransition(b)
}

// What a planner reads: 10 jobs, 8 machines, 300 placed tasks, behind them a long history.
func BenchmarkSnapshot(b *testing.B) {
	s := openBench(b)
	write(b, s, addMachines(8))
	write(b, s, func(tx *store.Tx) error {
		for range 10 {
			j := jobRow(b, "1-100000")
			if err := tx.InsertJob(&j); err != nil {
				return err
			}
		}
		for i := range 40 {
			as, err := tx.InsertAttempts(placement(int64(i%10+1), int64(i*batch+1000), batch, 8))
			if err != nil {
				return err
			}
			finish(as, tx.Now())
			if err := tx.UpdateAttempts(as); err != nil {
				return err
			}
		}
		for job := range 10 {
			if _, err := tx.InsertAttempts(placement(int64(job+1), 0, 30, 8)); err != nil {
				return err
			}
		}
		return nil
	})
	for b.Loop() {
		err := s.Read(b.Context(), func(tx *store.Tx) error {
			jobs, err := tx.OpenJobs()
			if err != nil || len(jobs) != 10 {
				return fmt.Errorf("%d jobs: %v", len(jobs), err)
			}
			machines, err := tx.LiveMachines()
			if err != nil || len(machines) != 8 {
				return fmt.Errorf("%d machines: %v", len(machines), err)
			}
			as, err := tx.OpenAttempts("")
			if err != nil || len(as) != 300 {
				return fmt.Errorf("%d attempts: %v", len(as), err)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// What a restarted server reads of a job with a million tasks waiting.
func BenchmarkReopenMillion(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	s, err := store.Open(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	write(b, s, func(tx *store.Tx) error {
		j := jobRow(b, "1-1000000")
		return tx.InsertJob(&j)
	})
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := store.Open(b.Context(), path)
		if err != nil {
			b.Fatal(err)
		}
		err = s.Read(b.Context(), func(tx *store.Tx) error {
			jobs, err := tx.OpenJobs()
			if err != nil || jobs[0].Pending.Len() != 1_000_000 {
				return fmt.Errorf("%v: %v", jobs, err)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEmptyWrite(b *testing.B) {
	s := openBench(b)
	for b.Loop() {
		write(b, s, func(*store.Tx) error { return nil })
	}
}

func BenchmarkOneEvent(b *testing.B) {
	s := openBench(b)
	for b.Loop() {
		write(b, s, func(tx *store.Tx) error {
			return tx.AddEvent(dspool.Event{Actor: "planner", Kind: "machine.created", Machine: "batch-1", Message: "made"})
		})
	}
}

func jobRow(tb testing.TB, array string) store.JobRow {
	set, err := dspool.ParseIndexSet(array)
	if err != nil {
		tb.Fatal(err)
	}
	return store.JobRow{UID: 20000, Share: "home", Dir: "jobs/ann/1", Job: dspool.Job{User: "ann", State: dspool.JobQueued, Pending: set,
		Tasks: dspool.Counts{Total: set.Len(), Pending: set.Len()},
		Spec: dspool.JobSpec{Name: "train", Pool: "batch", Array: array, CPUs: 0.5, Memory: 512 << 20,
			Command: []string{"python3", "train.py"}, Env: map[string]string{"A": "b"}}}}
}

// 500 people at work: behind them a history of logins, before them a batch queue's machines.
func openPeople(b *testing.B) *store.Store {
	s := openBench(b)
	write(b, s, addMachines(125))
	write(b, s, func(tx *store.Tx) error {
		for i := range 20_500 {
			now := tx.Now()
			r := store.SessionRow{UID: 20000 + i, Session: dspool.Session{User: fmt.Sprint("user", i%500), Pool: "lab", Machine: fmt.Sprintf("batch-%d", i%125+1),
				State: dspool.SessionClosed, Request: dspool.Resources{CPUs: 0.25, Memory: 512 << 20}, Placed: &now}}
			ended := &now
			if i >= 20_000 {
				r.State, ended = dspool.SessionOpen, nil
			}
			if err := tx.InsertSession(&r); err != nil {
				return err
			}
			for k := range 2 {
				if err := tx.AddConnection(dspool.Connection{ID: fmt.Sprint("c", i, "-", k), Session: r.ID, User: r.User, Ended: ended}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return s
}

// What a planner reads of people.
func BenchmarkSnapshotSessions500(b *testing.B) {
	s := openPeople(b)
	for b.Loop() {
		err := s.Read(b.Context(), func(tx *store.Tx) error {
			rs, err := tx.OpenSessions()
			if err != nil || len(rs) != 500 || rs[0].Connections != 2 {
				return fmt.Errorf("%d sessions: %v", len(rs), err)
			}
			ms, err := tx.LiveMachines()
			if err != nil || len(ms) != 125 || ms[0].Claims != 4 {
				return fmt.Errorf("%d machines: %v", len(ms), err)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// What a login to a session that is open writes: the connection at its begin and at its end.
func BenchmarkLogin(b *testing.B) {
	s := openPeople(b)
	n := 0
	for b.Loop() {
		n++
		c := dspool.Connection{ID: fmt.Sprint("login", n), Session: 20_001, User: "user0"}
		write(b, s, func(tx *store.Tx) error {
			if _, err := tx.Session(c.Session); err != nil {
				return err
			}
			return tx.AddConnection(c)
		})
		write(b, s, func(tx *store.Tx) error {
			now := tx.Now()
			c.BytesIn, c.Ended = 1, &now
			return tx.UpdateConnections([]dspool.Connection{c})
		})
	}
}

// A gateway's report of 500 idle connections.
func BenchmarkReport500(b *testing.B) {
	s := openPeople(b)
	var cs []dspool.Connection
	for i := range 500 {
		cs = append(cs, dspool.Connection{ID: fmt.Sprint("c", 20_000+i, "-0")})
	}
	for b.Loop() {
		for i := range cs {
			cs[i].BytesIn++
		}
		write(b, s, func(tx *store.Tx) error { return tx.UpdateConnections(cs) })
	}
}
