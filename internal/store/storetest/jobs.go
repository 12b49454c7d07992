package storetest

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

func set(t *testing.T, array string) dspool.IndexSet {
	t.Helper()
	var out dspool.IndexSet
	if err := out.UnmarshalText([]byte(array)); err != nil {
		t.Fatal(err)
	}
	return out
}

func newJob(t *testing.T, user, pool string) store.JobRow {
	t.Helper()
	return store.JobRow{UID: 20000, Share: "home", Dir: "jobs/ann", Key: "", Job: dspool.Job{
		User: user, State: dspool.JobQueued, Reason: testkit.Stated("waits for a machine"), Pending: set(t, "1-10,20"), Created: at(1),
		Tasks: dspool.Counts{Total: 11, Pending: 11},
		Spec: dspool.JobSpec{Name: "train <&>", Pool: pool, Size: "small", Command: []string{"sh", "-c", "echo \"$A\" 'ü\n'"},
			Env: map[string]string{"A": "1", "EMPTY": ""}, CPUs: 0.3, Memory: 1 << 62, GPUs: 1, Array: "1-10,20", MaxRunning: 3,
			TimeLimit: dspool.Duration(90 * time.Minute)}}}
}

func insertJob(t *testing.T, s *store.Store, j store.JobRow) store.JobRow {
	t.Helper()
	write(t, s, func(tx *store.Tx) error { return tx.InsertJob(&j) })
	return j
}

func job(t *testing.T, s *store.Store, id int64) store.JobRow {
	t.Helper()
	return get(t, s, func(tx *store.Tx) (store.JobRow, error) { return tx.Job(id) })
}

func jobIDs(js []store.JobRow) (out []int64) {
	for _, j := range js {
		out = append(out, j.ID)
	}
	return out
}

var jobs = []check{
	{"jobs are numbered from 1 and come back as inserted", func(t *testing.T, s *store.Store) {
		for want := range int64(3) {
			j := insertJob(t, s, newJob(t, "ann", "batch"))
			same(t, j.ID, want+1)
			same(t, job(t, s, j.ID), j)
		}
		missing(t, s, func(tx *store.Tx) error { _, err := tx.Job(4); return err })
		got := get(t, s, func(tx *store.Tx) (map[int64]store.JobRow, error) { return tx.JobsByID([]int64{3, 9, 1, 3}) })
		same(t, slices.Sorted(maps.Keys(got)), []int64{1, 3})
		same(t, got[3], job(t, s, 3))
		same(t, get(t, s, func(tx *store.Tx) (map[int64]store.JobRow, error) { return tx.JobsByID(nil) }), map[int64]store.JobRow{})
	}},
	{"a refused insert uses up no number", func(t *testing.T, s *store.Store) {
		refused(t, s, dspool.Internal, func(tx *store.Tx) error {
			j := newJob(t, "ann", "batch")
			if err := tx.InsertJob(&j); err != nil {
				return err
			}
			return errors.New("changed my mind")
		})
		same(t, insertJob(t, s, newJob(t, "ann", "batch")).ID, int64(1))
	}},
	{"an update changes what happens to a job and never what was submitted", func(t *testing.T, s *store.Store) {
		j := newJob(t, "ann", "batch")
		j.Key = "k"
		j = insertJob(t, s, j)
		j.State, j.Reason, j.Cancelling, j.Blocked, j.Dir, j.Share = dspool.JobRunning, dspool.Reason{}, true, testkit.Stated("job 7"), "jobs/ann/1", "team"
		j.Pending, j.Started, j.Ended, j.TaskSum, j.Killed = set(t, "20"), ptr(at(2)), ptr(at(3)), 90*time.Second, 2
		j.Tasks = dspool.Counts{Total: 1, Pending: 2, Assigned: 3, Running: 4, Succeeded: 5, Failed: 6, Cancelled: 7, Lost: 8}
		changed := j
		changed.Spec = dspool.JobSpec{Pool: "lab", Command: []string{"rm"}}
		changed.User, changed.UID, changed.Key, changed.Created = "eve", 0, "other", at(50)
		write(t, s, func(tx *store.Tx) error { return tx.UpdateJob(changed) })
		same(t, job(t, s, j.ID), j)
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.UpdateJob(store.JobRow{Job: dspool.Job{ID: 9}}) })
	}},
	{"open jobs are listed lean, and may be given back so", func(t *testing.T, s *store.Store) {
		j := newJob(t, "ann", "batch")
		j.Spec.Command = []string{"echo", strings.Repeat("x", 256<<10)}
		j.Spec.After = []int64{7, 8}
		j = insertJob(t, s, j)
		for _, state := range []dspool.JobState{dspool.JobSucceeded, dspool.JobFailed, dspool.JobCancelled, dspool.JobRunning} {
			k := newJob(t, "ann", "batch")
			k.State = state
			insertJob(t, s, k)
		}
		open := get(t, s, (*store.Tx).OpenJobs)
		same(t, jobIDs(open), []int64{1, 5})
		lean := j
		lean.Spec.Command, lean.Spec.Env = nil, nil
		same(t, open[0], lean)
		write(t, s, func(tx *store.Tx) error { return tx.UpdateJob(open[0]) })
		same(t, job(t, s, j.ID), j)
	}},
	{"what is left of a large array reads back, however fragmented", func(t *testing.T, s *store.Store) {
		var b strings.Builder
		for i := range 30_000 {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strconv.Itoa(2 * i))
		}
		j := newJob(t, "ann", "batch")
		j.Pending = set(t, b.String())
		j = insertJob(t, s, j)
		same(t, job(t, s, j.ID).Pending, j.Pending)
	}},
	{"a key finds its user's job and refuses a second", func(t *testing.T, s *store.Store) {
		byKey := func(user, key string) (store.JobRow, bool) {
			var found bool
			j := get(t, s, func(tx *store.Tx) (j store.JobRow, err error) {
				j, found, err = tx.JobByKey(user, key)
				return j, err
			})
			return j, found
		}
		insertJob(t, s, newJob(t, "ann", "batch"))
		insertJob(t, s, newJob(t, "ann", "batch")) // no key is no conflict
		j := newJob(t, "ann", "batch")
		j.Key = "k"
		j = insertJob(t, s, j)
		got, found := byKey("ann", "k")
		if !found {
			t.Fatal("not found")
		}
		same(t, got, j)
		if _, found := byKey("bob", "k"); found {
			t.Error("found for another user")
		}
		if _, found := byKey("ann", ""); found {
			t.Error("found without key")
		}
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { again := j; return tx.InsertJob(&again) })
		bob := j
		bob.User = "bob"
		insertJob(t, s, bob)
		// A new user of a removed one's name is somebody else.
		second := j
		second.UID++
		second = insertJob(t, s, second)
		got, _ = byKey("ann", "k")
		same(t, got, second)
	}},
	{"jobs are listed newest first, by what was asked", func(t *testing.T, s *store.Store) {
		for i := range 6 {
			j := newJob(t, []string{"ann", "bob"}[i%2], []string{"a", "b", "c"}[i%3])
			j.State = []dspool.JobState{dspool.JobQueued, dspool.JobRunning, dspool.JobSucceeded}[i/2]
			insertJob(t, s, j)
		}
		for _, c := range []struct {
			f    store.JobFilter
			want []int64
		}{
			{store.JobFilter{}, []int64{6, 5, 4, 3, 2, 1}},
			{store.JobFilter{Limit: 2}, []int64{6, 5}},
			{store.JobFilter{Before: 3}, []int64{2, 1}},
			{store.JobFilter{User: "ann"}, []int64{5, 3, 1}},
			{store.JobFilter{Pool: "b"}, []int64{5, 2}},
			{store.JobFilter{States: []dspool.JobState{dspool.JobQueued, dspool.JobRunning}}, []int64{4, 3, 2, 1}},
			{store.JobFilter{States: []dspool.JobState{dspool.JobRunning, dspool.JobSucceeded}}, []int64{6, 5, 4, 3}},
			{store.JobFilter{User: "bob", Pool: "a", States: []dspool.JobState{dspool.JobRunning}, Before: 5, Limit: 1}, []int64{4}},
			{store.JobFilter{User: "eve"}, nil},
		} {
			got := get(t, s, func(tx *store.Tx) ([]store.JobRow, error) { return tx.Jobs(c.f) })
			same(t, jobIDs(got), c.want)
		}
	}},
	{"the open jobs that wait for a job are known", func(t *testing.T, s *store.Store) {
		insertJob(t, s, newJob(t, "ann", "batch"))
		for _, after := range [][]int64{{1}, {1, 2, 1}, {2}, {1}} {
			j := newJob(t, "ann", "batch")
			j.Spec.After = after
			insertJob(t, s, j)
		}
		j := job(t, s, 5)
		j.State = dspool.JobCancelled
		write(t, s, func(tx *store.Tx) error { return tx.UpdateJob(j) })
		waiting := func(id int64) []int64 {
			return get(t, s, func(tx *store.Tx) ([]int64, error) { return tx.JobsAfter(id) })
		}
		same(t, waiting(1), []int64{2, 3})
		same(t, waiting(2), []int64{3, 4})
		same(t, waiting(3), nil)
	}},
}
