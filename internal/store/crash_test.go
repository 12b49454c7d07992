package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/store"
)

const crashFile = "DSPOOL_STORE_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		fmt.Fprintln(os.Stderr, writeForEver(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver commits batches and says on stdout which one is acknowledged.
func writeForEver(path string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	for {
		var done string
		err := s.Write(ctx, func(tx *store.Tx) error {
			n := 0
			last, err := tx.Setting("batch")
			if err != nil {
				return err
			}
			if last != "" {
				if n, err = atoi(last); err != nil {
					return err
				}
			}
			done = fmt.Sprint(n + 1)
			if n == 0 {
				if err := addMachines(8)(tx); err != nil {
					return err
				}
			}
			as, err := tx.InsertAttempts(placement(1, int64(n*50), 50, 8))
			if err != nil {
				return err
			}
			finish(as[:25], tx.Now())
			if err := tx.UpdateAttempts(as[:25]); err != nil {
				return err
			}
			if err := tx.AddEvent(dspool.Event{Kind: "batch", Message: done}); err != nil {
				return err
			}
			if err := relogin(tx); err != nil {
				return err
			}
			return tx.SetSetting("batch", done)
		})
		if err != nil {
			return err
		}
		if _, err := fmt.Println(done); err != nil {
			return err
		}
	}
}

// relogin ends the session there is, with its connection, and begins the next.
func relogin(tx *store.Tx) error {
	last, err := tx.OpenSessions()
	if err != nil {
		return err
	}
	for _, old := range last {
		cs, err := tx.OpenConnections(old.ID)
		if err != nil {
			return err
		}
		for i := range cs {
			now := tx.Now()
			cs[i].BytesIn, cs[i].Ended = old.ID, &now
		}
		old.State = dspool.SessionClosed
		if err := errors.Join(tx.UpdateConnections(cs), tx.UpdateSession(old)); err != nil {
			return err
		}
	}
	serial, err := tx.NextSerial()
	if err != nil {
		return err
	}
	now := tx.Now()
	s := store.SessionRow{UID: 20000, Session: dspool.Session{User: "ann", Pool: "lab", Machine: "batch-1", State: dspool.SessionOpen, Placed: &now}}
	if err := tx.InsertSession(&s); err != nil {
		return err
	}
	return errors.Join(tx.TouchRevision(s.ID), tx.AddConnection(dspool.Connection{ID: fmt.Sprint("c", serial), Session: s.ID}))
}

func atoi(s string) (n int, err error) {
	_, err = fmt.Sscan(s, &n)
	return n, err
}

func TestKilledAmidCommitsLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	var installation string
	revision := int64(0)
	total := 0
	for _, acks := range []int{1, 3, 17, 40, 80} {
		acked := crash(t, path, acks)

		s := open(t, path)
		if installation == "" {
			installation = s.Installation()
		}
		if s.Installation() != installation {
			t.Fatalf("installation is %s, was %s", s.Installation(), installation)
		}
		err := s.Read(t.Context(), func(tx *store.Tx) error {
			last, err := tx.Setting("batch")
			if err != nil {
				return err
			}
			n, err := atoi(last)
			if err != nil {
				return err
			}
			if n < acked {
				t.Errorf("batch %d was acknowledged, the state ends at %d", acked, n)
			}
			total = n
			events, err := tx.Events(store.EventFilter{})
			if err != nil {
				return err
			}
			tasks, err := tx.Tasks(1, store.TaskFilter{After: -1})
			if err != nil {
				return err
			}
			running, err := tx.OpenAttempts("")
			if err != nil {
				return err
			}
			if len(events) != n || len(tasks) != 50*n || len(running) != 25*n {
				t.Errorf("%d batches, but %d events, %d tasks, %d open attempts", n, len(events), len(tasks), len(running))
			}
			sessions, err := tx.Sessions(store.SessionFilter{All: true})
			if err != nil {
				return err
			}
			open, err := tx.OpenConnections(0)
			if err != nil {
				return err
			}
			if len(sessions) != n || sessions[0].State != dspool.SessionOpen || len(open) != 1 || open[0].Session != int64(n) || open[0].ID != fmt.Sprint("c", n) {
				t.Errorf("%d batches, but %d sessions, and open are %v", n, len(sessions), open)
			}
			_, rev, err := tx.ClaimsSince("batch-1", 0)
			if rev <= revision {
				t.Errorf("revision %d after %d", rev, revision)
			}
			revision = rev
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d batches survived", total)
}

// crash runs a writer on the state and kills it once it has acknowledged some batches; it returns the
// number of the last one acknowledged.
func crash(t *testing.T, path string, acks int) (last int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if n == acks {
			// It goes on writing meanwhile; what it says until the end of its output counts.
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		if last, err = atoi(lines.Text()); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	if last == 0 {
		t.Fatal("the writer acknowledged nothing")
	}
	return last
}
