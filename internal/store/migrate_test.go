package store_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
	"github.com/pressly/goose/v3"
)

// A state as the first schema left it, with one of everything that later ones touch.
const firstState = `
	INSERT INTO installation (id, clock, machine, job, attempt, event, revision) VALUES ('0123abcd', 1000000, 1, 0, 0, 0, 7);
	INSERT INTO users (uid, name, admin, created) VALUES (20000, 'ann', 1, 1);
	INSERT INTO users (uid, name, admin, created, removed) VALUES (20001, 'bob', 0, 1, 2);
	INSERT INTO machines (id, name, pool, size, cpus, memory, gpus, disk, price, created, image, state, reason, failure, cordoned, health,
		health_reason, address, token_hash, agent_key, remove, tries, agent_ready, revision)
		VALUES (1, 'batch-1', 'batch', 'small', 1000, 1, 0, 0, 0.5, 1, '', 'ready', '', '', 0, 'healthy', '', '', '', '', '', 0, 1, 7);
`

func TestAnOlderStateIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations/sqlite"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(firstState); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	s := open(t, path)
	if s.Installation() != "0123abcd" {
		t.Errorf("installation is %s", s.Installation())
	}
	err = s.Write(t.Context(), func(tx *store.Tx) error {
		users, err := tx.Users()
		if err != nil {
			return err
		}
		if len(users) != 1 || !users[0].Admin || users[0].HasPassword || users[0].DefaultPool != "" {
			t.Errorf("users are %+v", users)
		}
		group, err := tx.AddGroup("ml", dspool.UIDRange{First: 20000, Last: 20009})
		if err != nil {
			return err
		}
		if group.GID != 20002 {
			t.Errorf("a group has gid %d, which was a user's", group.GID)
		}
		m, err := tx.Machine("batch-1")
		if err != nil {
			return err
		}
		if m.State != dspool.Ready || m.HostKey != "" {
			t.Errorf("machine is %+v", m)
		}
		ses := store.SessionRow{UID: 20000, Session: dspool.Session{User: "ann", Pool: "batch", Machine: "batch-1", State: dspool.SessionPlaced}}
		if err := tx.InsertSession(&ses); err != nil {
			return err
		}
		if err := tx.TouchRevision(ses.ID); err != nil {
			return err
		}
		told, revision, err := tx.SessionsSince("batch-1", 7)
		if len(told) != 1 || told[0].ID != 1 || revision != 8 {
			t.Errorf("told %+v of revision %d", told, revision)
		}
		if err != nil {
			return err
		}
		app := store.AppRow{App: dspool.App{Session: ses.ID, Name: "jupyter", User: "ann", Pool: "batch"}, UID: 20000}
		if err := tx.InsertApp(&app); err != nil || app.ID != 1 {
			t.Errorf("inserted %+v: %v", app, err)
		}
		serial, err := tx.NextSerial()
		if serial != 1 {
			t.Errorf("the first serial is %d", serial)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
