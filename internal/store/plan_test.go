package store

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
)

// Inside the package: how the database finds rows is no one else's business, but a verb that
// walks through all history would only be noticed when there is much.
func TestHotStatementsNeverWalkThroughHistory(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Write(t.Context(), func(tx *Tx) error {
		var errs []error
		do := func(_ any, err error) { errs = append(errs, err) }
		do(nil, tx.InsertMachine(MachineRow{Machine: dspool.Machine{Name: "a-1", Pool: "a", State: dspool.Ready}}))
		do(nil, tx.InsertJob(&JobRow{Job: dspool.Job{State: dspool.JobRunning}}))
		as, err := tx.InsertAttempts([]AttemptRow{{Job: 1, Claims: []ClaimRow{{Machine: "a-1"}}}})
		do(nil, err)
		do(nil, tx.UpdateAttempts(as))
		do(nil, tx.SetDesired([]int64{1}, Cancel, dspool.Why(dspool.WhyStated, dspool.ReasonParams{Detail: "x"})))
		do(tx.Attempts([]int64{1, 2}))
		do(tx.OpenAttempts(""))
		do(tx.OpenAttempts("a-1"))
		do(tx.OpenAttemptsOfJob(1))
		_, _, err = tx.ClaimsSince("a-1", 0)
		do(nil, err)
		for _, st := range []dspool.TaskState{"", dspool.TaskRunning, dspool.TaskFailed} {
			do(tx.Tasks(1, TaskFilter{State: st, Limit: 10}))
		}
		_, _, err = tx.Task(1, 0)
		do(nil, err)
		do(nil, tx.DeleteAttempts([]int64{1}))
		do(tx.OpenJobs())
		do(tx.JobsByID([]int64{1, 2, 3}))
		do(tx.Jobs(JobFilter{States: []dspool.JobState{dspool.JobRunning}}))
		do(tx.Jobs(JobFilter{User: "ann", Limit: 10}))
		do(tx.Jobs(JobFilter{States: []dspool.JobState{dspool.JobFailed}, Limit: 10}))
		do(tx.JobsAfter(1))
		_, _, err = tx.JobByKey("ann", "k")
		do(nil, err)
		do(nil, tx.UpdateJob(JobRow{Job: dspool.Job{ID: 1, State: dspool.JobRunning}}))
		do(tx.LiveMachines())
		do(tx.Machine("a-1"))
		do(tx.MachineIntervals(time.UnixMicro(1), tx.now))
		do(tx.ClaimIntervals(time.UnixMicro(1), tx.now))
		do(nil, tx.AddEvent(dspool.Event{}))
		do(tx.Events(EventFilter{After: 5}))
		do(tx.Events(EventFilter{Machine: "a-1", Latest: true, Limit: 10}))
		do(tx.Events(EventFilter{Job: 1}))
		do(tx.Events(EventFilter{Pool: "a", Latest: true, Limit: 10}))
		for _, f := range []EventFilter{{}, {Pool: "a"}, {Machine: "a-1"}, {Job: 1}} {
			f.User, f.UID, f.Limit = "ann", 20000, 10
			do(tx.Events(f))
			f.Latest = true
			do(tx.Events(f))
		}
		do(tx.RunningOperations())
		do(tx.TokenByHash("h"))
		do(nil, tx.InsertSession(&SessionRow{Session: dspool.Session{User: "ann", Pool: "a", Machine: "a-1", State: dspool.SessionOpen}, UID: 20000}))
		do(nil, tx.UpdateSession(SessionRow{Session: dspool.Session{ID: 1, Machine: "a-1", State: dspool.SessionClosed}}))
		do(nil, tx.TouchRevision(1))
		do(tx.TouchUser("ann"))
		do(tx.Session(1))
		do(tx.OpenSessions())
		_, _, err = tx.SessionOf("ann", "a")
		do(nil, err)
		for _, f := range []SessionFilter{{}, {User: "ann"}, {Pool: "a"}, {Machine: "a-1"}, {User: "ann", All: true}, {Pool: "a", All: true}, {Machine: "a-1", All: true}} {
			f.Limit = 10
			do(tx.Sessions(f))
		}
		_, _, err = tx.SessionsSince("a-1", 0)
		do(nil, err)
		do(tx.SessionIntervals(time.UnixMicro(1), tx.now))
		do(nil, tx.AddConnection(dspool.Connection{ID: "c", Session: 1}))
		do(nil, tx.UpdateConnections([]dspool.Connection{{ID: "c"}}))
		do(tx.Connection("c"))
		do(tx.OpenConnections(0))
		do(tx.OpenConnections(1))
		app := AppRow{App: dspool.App{Session: 1, Name: "j", User: "ann", Pool: "a"}, UID: 20000}
		do(nil, tx.InsertApp(&app))
		do(nil, tx.UpdateApp(app))
		do(tx.App(1))
		do(tx.AppSpec(1))
		do(tx.OpenApps())
		do(tx.AppsOf(1))
		do(tx.Apps(AppFilter{Limit: 10}))
		do(tx.Apps(AppFilter{User: "ann", Limit: 10}))
		do(tx.Apps(AppFilter{User: "ann", All: true, Limit: 10}))
		do(nil, tx.UpdateApp(AppRow{App: dspool.App{ID: 1, State: dspool.AppEnded}}))
		do(tx.UserByOIDC("i", "s"))
		do(tx.UserKey("ann", "SHA256:a"))
		do(tx.UserKeys("ann"))
		do(tx.User("ann"))
		do(tx.PasswordHash("ann"))
		for _, user := range []string{"", "ann"} {
			for _, jobs := range []bool{false, true} {
				do(nil, tx.EachTotal(Day(tx.now), tx.now, user, jobs, func(Total) error { return nil }))
			}
		}
		do(tx.Folds())
		do(tx.FirstDay())
		do(tx.Horizon())
		from, _, _, err := tx.BeginFold(tx.now.Add(48*time.Hour), 10)
		do(nil, err)
		one := []Total{{TotalKey: TotalKey{Kind: "task", Job: 1}}}
		do(nil, tx.PutTotals(from, one, one))
		do(nil, tx.EndFold(from))
		do(tx.PruneEvents(tx.now, 10))
		do(tx.PruneJobs(Day(tx.now), 10))
		do(tx.PruneSessions(Day(tx.now), 10))
		do(tx.PruneMachines(Day(tx.now), 10))
		_, err = tx.forgetJob(1, tx.now.UnixMicro()*2, 10)
		do(nil, err)
		_, err = tx.forgetSession(1, 10)
		do(nil, err)
		do(tx.Outputs(time.Time{}, tx.now, 10))
		do(nil, tx.SetOutputRemoved(1))
		for _, err := range errs {
			if err != nil && dspool.ErrorCode(err) != dspool.NotFound {
				return err
			}
		}
		walks := regexp.MustCompile(`^SCAN (apps|app_specs|attempts|claims|connections|events|jobs|job_commands|machines|operations|sessions|tokens|usage_days|usage_jobs|user_keys|users|[a-eg-z])$`)
		checked := 0
		for _, query := range slices.Collect(maps.Keys(tx.h.stmts)) {
			if strings.HasPrefix(query, "BEGIN") || query == "COMMIT" || query == "ROLLBACK" {
				continue
			}
			checked++
			nothing := make([]any, strings.Count(query, "?"))
			err := tx.each("EXPLAIN QUERY PLAN "+query, nothing, func(r row) error {
				var id, parent, unused int
				var step string
				err := r.Scan(&id, &parent, &unused, &step)
				// A machine that lives for months has had many sessions, and few at once.
				if walks.MatchString(step) || strings.Contains(query, sessionPlaced) && strings.Contains(step, "sessions_machine") {
					t.Errorf("%s\nwalks: %s", query, step)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		if checked < 60 {
			t.Errorf("only %d statements were looked at", checked)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskIsNamedAndPasses(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	set := func(tx *Tx) error { return tx.SetSetting("a", strings.Repeat("x", 1<<20)) }
	err = s.Write(t.Context(), func(tx *Tx) error {
		// A limit of this connection's, in place of a real full disk.
		var pages int
		if err := tx.scan(`PRAGMA max_page_count = 1`, nil, &pages); err != nil {
			return err
		}
		if err := tx.AddEvent(dspool.Event{Kind: "before"}); err != nil {
			return err
		}
		if err := set(tx); err == nil {
			t.Error("there was room")
		}
		// The database may have rolled back: nothing that follows may be kept either.
		_ = tx.AddEvent(dspool.Event{Kind: "after"})
		return nil
	})
	if dspool.ErrorCode(err) != dspool.Unavailable || !strings.Contains(err.Error(), "full") {
		t.Errorf("error is %v", err)
	}
	err = s.Read(t.Context(), func(tx *Tx) error {
		events, err := tx.Events(EventFilter{})
		if len(events) > 0 {
			t.Errorf("kept %v", events)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.Write(t.Context(), func(tx *Tx) error {
		var pages int
		if err := tx.scan(`PRAGMA max_page_count = 1000000`, nil, &pages); err != nil {
			return err
		}
		return set(tx)
	}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
