package control_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/clock"
	"github.com/dspool/dspool/internal/clock/clocktest"
	"github.com/dspool/dspool/internal/control"
	"github.com/dspool/dspool/internal/store"
	"github.com/dspool/dspool/internal/usage"
)

const (
	crashFile = "DSPOOL_FOLD_CRASH_FILE"
	crashAt   = "DSPOOL_FOLD_CRASH_AT" // which transaction kills the process as it begins
)

var crashTime = firstDay.Add(9*day + 5*time.Hour)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		at, err := strconv.Atoi(os.Getenv(crashAt))
		if err == nil {
			err = tidyUntilKilled(path, at)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func tidyUntilKilled(path string, at int) error {
	n := 0
	standing := clocktest.Standing(crashTime)
	s, err := store.Open(context.Background(), path, store.WithClock(func() clock.Reading {
		if n++; n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return standing.Read()
	}))
	if err != nil {
		return err
	}
	if err := control.New(control.Options{Store: s}).Tidy(context.Background()); err != nil {
		return err
	}
	return s.Close()
}

func TestKilledWhileItFoldsAndForgetsNothingIsLostNorTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	p := newPast(t, base, crashTime)
	p.write(func(tx *store.Tx) error {
		return tx.SetSetting("retention", `{"Events":"24h","Jobs":"72h","Sessions":"72h"}`)
	})
	p.addMachine(usage.Machine{Machine: "batch-1", Pool: "batch", Size: "small", Resources: dspool.Resources{CPUs: 4, Memory: 8 << 30}, Price: 1.37,
		From: firstDay.Add(time.Hour), To: firstDay.Add(3 * day)})
	p.addMachine(usage.Machine{Machine: "lab-1", Pool: "lab", Size: "large", Resources: dspool.Resources{CPUs: 8, Memory: 32 << 30}, Price: 2.11,
		From: firstDay.Add(2 * time.Hour), To: crashTime.Add(day)})
	for i := range 300 { // more than a transaction takes
		from := firstDay.Add(2*time.Hour + time.Duration(i)*2*time.Minute)
		p.addTask(usage.Claim{Machine: "batch-1", User: []string{"ada", "bob"}[i%2], UID: 20000 + i%2, From: from, To: from.Add(time.Duration(i%90) * time.Minute),
			Request: dspool.Resources{CPUs: 0.7, Memory: 1 << 30}})
	}
	for i := range 8 {
		from := firstDay.Add(time.Duration(i)*20*time.Hour + 3*time.Hour)
		p.addSession(usage.Claim{Machine: "lab-1", User: "ada", UID: 20000, From: from, To: from.Add(30 * time.Hour), Request: dspool.Resources{CPUs: 3, Memory: 4 << 30}})
	}
	bills := func(p *past) (out []api.Usage) {
		for _, from := range []time.Time{firstDay, firstDay.Add(day), firstDay.Add(8*day + 7*time.Hour)} {
			for _, by := range []usage.By{usage.ByUser, usage.ByPool} {
				out = append(out, p.bill(by, from, p.now))
			}
		}
		return out
	}
	want, byJob := bills(p), p.bill(usage.ByJob, firstDay, p.now).Cost
	p.close()
	whole, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	for at := 1; ; at++ {
		path := filepath.Join(dir, fmt.Sprint("state", at))
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashFile+"="+path, fmt.Sprintf("%s=%d", crashAt, at))
		cmd.Stderr = os.Stderr
		err := cmd.Run()
		p := newPast(t, path, crashTime)
		check := func(when string) {
			t.Helper()
			if diff := cmp.Diff(want, bills(p)); diff != "" {
				t.Fatalf("%s at transaction %d the bill differs (-want +got):\n%s", when, at, diff)
			}
			if got := p.bill(usage.ByJob, firstDay, p.now).Cost; fmt.Sprintf("%.6f", got) != fmt.Sprintf("%.6f", byJob) {
				t.Fatalf("%s at transaction %d it costs %v by job, and did %v", when, at, got, byJob)
			}
		}
		check("killed")
		if err := p.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("killed and gone on")
		err2 := p.Store.Read(t.Context(), func(tx *store.Tx) error {
			f, err := tx.Folds()
			if !f.Folded.Equal(store.Day(crashTime)) {
				t.Errorf("it is folded until %v", f.Folded)
			}
			jobs, jerr := tx.Jobs(store.JobFilter{})
			if jerr != nil || len(jobs) != 0 {
				t.Errorf("%d jobs are left, %v", len(jobs), jerr)
			}
			if _, err := tx.Machine("batch-1"); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("the machine that ended long ago: %v", err)
			}
			return err
		})
		p.close()
		if err2 != nil {
			t.Fatal(err2)
		}
		if err == nil { // it was not killed any more
			if at < 20 {
				t.Errorf("it took only %d transactions", at)
			}
			t.Logf("killed at each of %d transactions", at-1)
			return
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
