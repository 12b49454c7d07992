package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

func taskList(t *testing.T, s *store.Store, job int64, f store.TaskFilter) []dspool.Task {
	t.Helper()
	return get(t, s, func(tx *store.Tx) ([]dspool.Task, error) { return tx.Tasks(job, f) })
}

func indices(ts []dspool.Task) (out []int64) {
	for _, k := range ts {
		out = append(out, k.Index)
	}
	return out
}

var tasks = []check{
	{"a task is what its latest attempt is", func(t *testing.T, s *store.Store) {
		m, n := addMachine(t, s, "batch"), addMachine(t, s, "batch")
		first := place(t, s, 1, m.Name, 0, 5)
		end(t, s, first, at(6))
		insert(t, s, attempt(1, 5, n.Name, m.Name))
		place(t, s, 2, n.Name, 5)
		zero := dspool.Task{Job: 1, Index: 0, State: dspool.TaskSucceeded, Attempt: 1, Machine: m.Name, ExitCode: ptr(0), Started: ptr(at(5)), Ended: ptr(at(6))}
		five := dspool.Task{Job: 1, Index: 5, State: dspool.TaskAssigned, Attempt: 3, Machine: n.Name}
		same(t, taskList(t, s, 1, store.TaskFilter{After: -1}), []dspool.Task{zero, five})
		read(t, s, func(tx *store.Tx) error {
			got, found, err := tx.Task(1, 5)
			if !found {
				t.Error("not found")
			}
			same(t, got, five)
			if _, found, _ := tx.Task(1, 6); found {
				t.Error("found a task that was never placed")
			}
			return err
		})
	}},
	{"tasks are listed by state, from an index on", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		as := place(t, s, 1, m.Name, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
		states := []dspool.TaskState{dspool.TaskAssigned, dspool.TaskRunning, dspool.TaskSucceeded, dspool.TaskFailed, dspool.TaskCancelled, dspool.TaskLost}
		for i := range as {
			a := &as[i]
			a.State = states[int(a.Index)%len(states)]
			if a.State.Ended() {
				a.Ended = ptr(at(7))
			}
		}
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts(as) })
		for i, st := range states {
			want := []int64{int64(i)}
			if i < 4 {
				want = append(want, int64(i+6))
			}
			same(t, indices(taskList(t, s, 1, store.TaskFilter{State: st, After: -1})), want)
		}
		same(t, indices(taskList(t, s, 1, store.TaskFilter{State: dspool.TaskRunning, After: 1})), []int64{7})
		same(t, indices(taskList(t, s, 1, store.TaskFilter{After: 2, Limit: 3})), []int64{3, 4, 5})
		same(t, indices(taskList(t, s, 1, store.TaskFilter{})), []int64{1, 2, 3, 4, 5, 6, 7, 8, 9})
		same(t, taskList(t, s, 2, store.TaskFilter{After: -1}), nil)
	}},
	{"a failed try that was repeated is no failed task", func(t *testing.T, s *store.Store) {
		m := addMachine(t, s, "batch")
		as := place(t, s, 1, m.Name, 0)
		as[0].State, as[0].Ended = dspool.TaskFailed, ptr(at(7))
		write(t, s, func(tx *store.Tx) error { return tx.UpdateAttempts(as) })
		same(t, indices(taskList(t, s, 1, store.TaskFilter{State: dspool.TaskFailed, After: -1})), []int64{0})
		place(t, s, 1, m.Name, 0)
		same(t, taskList(t, s, 1, store.TaskFilter{State: dspool.TaskFailed, After: -1}), nil)
	}},
}
