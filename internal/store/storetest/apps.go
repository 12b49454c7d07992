package storetest

import (
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/testkit"
)

var notebook = store.AppSpec{Command: []string{"jupyter", "--port={port}"}, Env: map[string]string{"TOKEN": "secret"}, Dir: "work", Kernels: "/api", Token: "secret"}

func startApp(t *testing.T, s *store.Store, ses store.SessionRow, name string) store.AppRow {
	t.Helper()
	a := store.AppRow{App: dspool.App{Name: name, User: ses.User, Pool: ses.Pool, Session: ses.ID}, UID: ses.UID, Spec: notebook}
	write(t, s, func(tx *store.Tx) error { return tx.InsertApp(&a) })
	return a
}

func app(t *testing.T, s *store.Store, id int64) store.AppRow {
	t.Helper()
	return get(t, s, func(tx *store.Tx) (store.AppRow, error) { return tx.App(id) })
}

func moveApp(t *testing.T, s *store.Store, a store.AppRow, to dspool.AppState) store.AppRow {
	t.Helper()
	a.State = to
	write(t, s, func(tx *store.Tx) error { return tx.UpdateApp(a) })
	return app(t, s, a.ID)
}

func appIDs(as []store.AppRow) (out []int64) {
	for _, a := range as {
		out = append(out, a.ID)
	}
	return out
}

var apps = []check{
	{"an app comes back as it was inserted and updated, on its session's machine", func(t *testing.T, s *store.Store) {
		ses := openSession(t, s, "ann", 20000, "lab-1")
		a := store.AppRow{App: dspool.App{Name: "jupyter", User: "ann", Pool: "lab", Session: ses.ID, Reason: testkit.Stated("x")}, UID: 20000, Restart: true, Spec: notebook}
		write(t, s, func(tx *store.Tx) error {
			err := tx.InsertApp(&a)
			if a.ID != 1 || a.State != dspool.AppWaiting || a.Created != tx.Now() || a.Since != tx.Now() {
				t.Errorf("inserted %+v", a)
			}
			return err
		})
		a.Machine, a.Spec = "lab-1", store.AppSpec{}
		same(t, app(t, s, 1), a)
		a.State, a.Port, a.Started, a.Reason, a.ExitCode = dspool.AppRunning, 40001, ptr(at(7)), dspool.Reason{}, ptr(3)
		write(t, s, func(tx *store.Tx) error {
			a.Since = tx.Now()
			return tx.UpdateApp(a)
		})
		same(t, app(t, s, 1), a)
		missing(t, s, func(tx *store.Tx) error { _, err := tx.App(2); return err })
		refused(t, s, dspool.NotFound, func(tx *store.Tx) error { return tx.UpdateApp(store.AppRow{}) })
	}},
	{"what an app is stays as inserted, and so does since when it is in its state", func(t *testing.T, s *store.Store) {
		a := startApp(t, s, openSession(t, s, "ann", 20000, ""), "jupyter")
		a = app(t, s, a.ID)
		changed := a
		changed.Session, changed.Name, changed.User, changed.UID, changed.Pool, changed.Created, changed.Machine = 9, "x", "bob", 1, "x", at(1), "m"
		write(t, s, func(tx *store.Tx) error { return tx.UpdateApp(changed) })
		same(t, app(t, s, a.ID), a)
		if b := moveApp(t, s, a, dspool.AppStarting); !b.Since.After(a.Since) {
			t.Errorf("since %s, was %s", b.Since, a.Since)
		}
	}},
	{"what an app runs is forgotten when it has ended", func(t *testing.T, s *store.Store) {
		a := startApp(t, s, openSession(t, s, "ann", 20000, ""), "jupyter")
		spec := func(tx *store.Tx) (store.AppSpec, error) { return tx.AppSpec(a.ID) }
		same(t, get(t, s, spec), notebook)
		a = moveApp(t, s, a, dspool.AppEnded)
		if a.Ended == nil {
			t.Error("it has no end")
		}
		missing(t, s, func(tx *store.Tx) error { _, err := spec(tx); return err })
	}},
	{"a session has one app of a name, beside one that is stopping", func(t *testing.T, s *store.Store) {
		ses := openSession(t, s, "ann", 20000, "")
		a := startApp(t, s, ses, "jupyter")
		insert := func(tx *store.Tx) error {
			return tx.InsertApp(&store.AppRow{App: dspool.App{Name: "jupyter", User: "ann", Pool: "lab", Session: ses.ID}, UID: 20000})
		}
		for _, st := range []dspool.AppState{dspool.AppWaiting, dspool.AppStarting, dspool.AppRunning} {
			a = moveApp(t, s, a, st)
			refused(t, s, dspool.Conflict, insert)
		}
		startApp(t, s, ses, "editor")
		startApp(t, s, openSession(t, s, "bob", 20001, ""), "jupyter")
		a = moveApp(t, s, a, dspool.AppStopping)
		startApp(t, s, ses, "jupyter")
		refused(t, s, dspool.Conflict, insert)
		a.State = dspool.AppRunning
		refused(t, s, dspool.Conflict, func(tx *store.Tx) error { return tx.UpdateApp(a) })
		moveApp(t, s, a, dspool.AppEnded)
	}},
	{"lists hold the apps they should, in order", func(t *testing.T, s *store.Store) {
		ann, bob := openSession(t, s, "ann", 20000, "lab-1"), openSession(t, s, "bob", 20001, "lab-1")
		for i, name := range []string{"a", "b", "c", "d"} {
			ses := ann
			if i%2 == 1 {
				ses = bob
			}
			a := startApp(t, s, ses, name)
			if i < 2 { // 1 of ann and 2 of bob
				moveApp(t, s, a, dspool.AppEnded)
			}
		}
		startApp(t, s, ann, "e")
		same(t, appIDs(get(t, s, (*store.Tx).OpenApps)), []int64{3, 4, 5})
		same(t, appIDs(get(t, s, func(tx *store.Tx) ([]store.AppRow, error) { return tx.AppsOf(ann.ID) })), []int64{3, 5})
		for _, c := range []struct {
			f    store.AppFilter
			want []int64
		}{
			{store.AppFilter{}, []int64{5, 4, 3}},
			{store.AppFilter{All: true}, []int64{5, 4, 3, 2, 1}},
			{store.AppFilter{All: true, Before: 4, Limit: 2}, []int64{3, 2}},
			{store.AppFilter{User: "ann"}, []int64{5, 3}},
			{store.AppFilter{User: "bob", All: true}, []int64{4, 2}},
			{store.AppFilter{User: "cyd"}, nil},
		} {
			same(t, appIDs(get(t, s, func(tx *store.Tx) ([]store.AppRow, error) { return tx.Apps(c.f) })), c.want)
		}
	}},
}
