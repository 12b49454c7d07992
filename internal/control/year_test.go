package control_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/store/storetest"
	"github.com/dspool/dspool/internal/usage"
)

func TestTheBillOfAYearIsTheSameBeforeAndAfterFoldingAndForgetting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	end := firstDay.AddDate(1, 0, 0)
	newPast(t, path, end).close()
	if err := (storetest.Year{Attempts: 50_000, Events: 150_000, End: end}).Make(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	p := newPast(t, path, end.Add(3*day))
	defer p.close()
	begin := end.AddDate(-1, 0, -1)
	bills := func(from, to time.Time) (out []api.Usage) {
		for _, by := range []usage.By{usage.ByUser, usage.ByPool} {
			out = append(out, p.bill(by, from, to))
		}
		return out
	}
	month := begin.AddDate(0, 5, 0)
	all := func() [][]api.Usage {
		return [][]api.Usage{bills(begin, p.now), bills(month, month.AddDate(0, 1, 0)), bills(end.Add(-36*time.Hour), time.Time{})}
	}
	before, byJob := all(), p.bill(usage.ByJob, begin, p.now)
	tasks := int64(0)
	for _, r := range before[0][0].Rows {
		tasks += r.Tasks
	}
	if tasks != 50_000 || before[0][0].Cost == 0 || len(byJob.Rows) < 2500 {
		t.Fatalf("the year has %d tasks, %d jobs and costs %v", tasks, len(byJob.Rows), before[0][0].Cost)
	}
	p.fold()
	if diff := cmp.Diff(before, all()); diff != "" {
		t.Errorf("folded, the bill differs (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(byJob, p.bill(usage.ByJob, begin, p.now)); diff != "" {
		t.Errorf("folded, the bill by job differs (-before +after):\n%s", diff)
	}
	p.write(func(tx *store.Tx) error {
		return tx.SetSetting("retention", `{"Events":"720h","Jobs":"2160h","Sessions":"2160h","Output":"0s"}`)
	})
	if err := p.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, all()); diff != "" {
		t.Errorf("what was forgotten changed the bill (-before +after):\n%s", diff)
	}
	after := p.bill(usage.ByJob, begin, p.now)
	if older := after.Rows[0]; older.Key != usage.Older || len(after.Rows) > len(byJob.Rows)/2 {
		t.Errorf("%d of %d rows are left, the first is %+v", len(after.Rows), len(byJob.Rows), older)
	}
	err := p.Store.Read(t.Context(), func(tx *store.Tx) error {
		events, err := tx.Events(store.EventFilter{Limit: 1})
		if err != nil {
			return err
		}
		if limit := p.now.Add(-30 * day); events[0].Time.Before(limit) || events[0].Time.After(limit.Add(day)) {
			t.Errorf("the first event is of %v", events[0].Time)
		}
		jobs, err := tx.Jobs(store.JobFilter{})
		if n := len(jobs); n < 2500*80/365 || n > 2500*95/365 {
			t.Errorf("%d jobs are left", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
