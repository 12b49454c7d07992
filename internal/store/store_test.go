package store_test

import (
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/store/storetest"
)

func open(t *testing.T, path string, opts ...store.Option) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) *store.Store { return open(t, filepath.Join(t.TempDir(), "state.db")) })
}

func TestReopenedStateGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "odd ?name #1%41.db")
	var installation, machine string
	var attempt, revision, event, session int64
	var serial uint64
	for i := range int64(3) {
		s := open(t, path)
		if installation == "" {
			installation = s.Installation()
		}
		if s.Installation() != installation {
			t.Errorf("installation is %s, was %s", s.Installation(), installation)
		}
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			name, err := tx.NextMachineName("batch")
			if err != nil {
				return err
			}
			if name == machine {
				t.Errorf("machine name %s was given twice", name)
			}
			machine = name
			if err := tx.InsertMachine(store.MachineRow{Machine: dspool.Machine{Name: name}}); err != nil {
				return err
			}
			as, err := tx.InsertAttempts([]store.AttemptRow{{Job: 1, Index: i, Claims: []store.ClaimRow{{Machine: name}}}})
			if err != nil {
				return err
			}
			if as[0].ID <= attempt || as[0].Claims[0].Revision <= revision {
				t.Errorf("attempt %d of revision %d after %d of %d", as[0].ID, as[0].Claims[0].Revision, attempt, revision)
			}
			attempt, revision = as[0].ID, as[0].Claims[0].Revision
			if err := tx.AddEvent(dspool.Event{Kind: "a"}); err != nil {
				return err
			}
			events, err := tx.Events(store.EventFilter{Latest: true, Limit: 1})
			if err != nil {
				return err
			}
			if events[0].ID <= event {
				t.Errorf("event %d after %d", events[0].ID, event)
			}
			event = events[0].ID
			number, err := tx.NextSerial()
			if number <= serial || err != nil {
				t.Errorf("serial %d after %d: %v", number, serial, err)
			}
			serial = number
			ses := store.SessionRow{Session: dspool.Session{User: "ann", Pool: "lab", State: dspool.SessionClosed}}
			if err := tx.InsertSession(&ses); err != nil {
				return err
			}
			if ses.ID <= session {
				t.Errorf("session %d after %d", ses.ID, session)
			}
			session = ses.ID
			// Nothing that carried a number is left when the state opens again.
			if _, err := tx.PruneEvents(tx.Now().Add(time.Hour), 1000); err != nil {
				return err
			}
			return tx.DeleteAttempts([]int64{attempt})
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(left) != 1 || left[0] != path {
		t.Errorf("closed, there are the files %q: %v", left, err)
	}
}

func TestOpenRefusesWhatItCannotServe(t *testing.T) {
	t.Parallel()
	t.Run("a newer schema, which it leaves as it is", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "state.db")
		if err := open(t, path).Close(); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
			t.Fatal(err)
		}
		_, err = store.Open(t.Context(), path)
		if dspool.ErrorCode(err) != dspool.Conflict || !strings.Contains(err.Error(), "newer dspool") {
			t.Errorf("error is %v", err)
		}
		var n int
		if err := db.QueryRow(`SELECT max(version_id) FROM goose_db_version`).Scan(&n); err != nil || n != 9999 {
			t.Errorf("the schema is now %d: %v", n, err)
		}
	})
	t.Run("a file that is something else, which it leaves as it is", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "state.db")
		text := strings.Repeat("not a database\n", 500)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), path); dspool.ErrorCode(err) != dspool.Conflict {
			t.Errorf("error is %v", err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("the file changed: %v", err)
		}
	})
	t.Run("a directory that does not exist", func(t *testing.T) {
		t.Parallel()
		if _, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "no", "state.db")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestOnlyTheOwnerReadsTheState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "state.db"))
	if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("a", "1") }); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("files %v: %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v: %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestAWriteThatChangesNothingWritesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	same := func(tx *store.Tx) error {
		if err := tx.SetSetting("a", "1"); err != nil {
			return err
		}
		if err := tx.PutPool(dspool.Pool{Name: "batch"}); err != nil {
			return err
		}
		if _, err := tx.User("ann"); dspool.ErrorCode(err) == dspool.NotFound {
			if err := addPeople(tx); err != nil {
				return err
			}
		}
		err := errors.Join(tx.SetAdmin("ann", true), tx.SetPassword("ann", "x"), tx.SetDefaultPool("ann", "lab"), tx.AddMember("ml", "ann"),
			tx.AddRevocation(store.RevokedSerial, "7", "x"), tx.UpdateConnections([]dspool.Connection{{ID: "c", BytesIn: 5}, {ID: "unknown", BytesIn: 5}}))
		if err != nil {
			return err
		}
		return tx.SetDesired([]int64{1, 2}, store.Cancel, dspool.Reason{})
	}
	if err := s.Write(t.Context(), same); err != nil {
		t.Fatal(err)
	}
	log := func() time.Time {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path+"-wal", old, old); err != nil {
		t.Fatal(err)
	}
	before := log()
	for range 10 {
		if err := s.Write(t.Context(), same); err != nil {
			t.Fatal(err)
		}
	}
	if log() != before {
		t.Error("the log was written to")
	}
	if err := s.Write(t.Context(), func(tx *store.Tx) error { return tx.SetSetting("a", "2") }); err != nil {
		t.Fatal(err)
	}
	if log() == before {
		t.Error("this test would not notice if it were")
	}
}

func addPeople(tx *store.Tx) error {
	ids := dspool.UIDRange{First: 20000, Last: 20009}
	u, err := tx.AddUser("ann", false, ids)
	if err != nil {
		return err
	}
	if _, err := tx.AddGroup("ml", ids); err != nil {
		return err
	}
	ses := store.SessionRow{Session: dspool.Session{User: "ann", Pool: "lab"}, UID: u.UID}
	if err := tx.InsertSession(&ses); err != nil {
		return err
	}
	return tx.AddConnection(dspool.Connection{ID: "c", Session: ses.ID, User: "ann"})
}
