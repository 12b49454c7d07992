package servertest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/agenttest"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/fake"
	"github.com/dspool/dspool/internal/servertest"
)

// rootConfig is Config with one machine, on which people become root.
var rootConfig = strings.NewReplacer("policy: {", "policy: {sudo: true, ", "sizes: [small, large], min: 0, max: 4", "sizes: [large], min: 0, max: 1").Replace(servertest.Config)

func mountedAt(mounts []provider.Mount) string {
	var targets []string
	for _, m := range mounts {
		targets = append(targets, m.Target)
	}
	slices.Sort(targets)
	return strings.Join(targets, " ")
}

func TestMachinesOfRootsMountOnlyWhoIsThere(t *testing.T) {
	t.Parallel()
	var mounted atomic.Pointer[fake.Provider]
	started := make(chan string, 10)
	s := servertest.New(t, servertest.Options{Config: rootConfig, Tasks: func(spec initd.Spec) agenttest.Outcome {
		started <- mountedAt(mounted.Load().Mounted("batch-1"))
		return agenttest.Commands(spec)
	}})
	mounted.Store(s.Provider)
	ctx := t.Context()
	first := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	s.Running(first.ID, 1)
	const ada = "/home/ada /mnt/team/jobs/ada"
	if got := <-started; got != ada {
		t.Errorf("when ada's task began, the machine mounted %q", got)
	}
	t.Run("the shares are mounted without what is private", func(t *testing.T) {
		want := []provider.Mount{
			{Source: filepath.Join(s.Dir, "shares/home"), Target: "/home", Empty: true},
			{Source: filepath.Join(s.Dir, "shares/team"), Target: "/mnt/team", Cover: []string{"jobs", "notebooks"}},
		}
		if got := s.Provider.Spec("batch-1").Mounts; mustJSON(t, got) != mustJSON(t, want) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("who comes is mounted before the agent hears of it", func(t *testing.T) {
		logIn(t, s, "bob", "conn-bob")
		s.Until("bob's session is open", func() bool {
			return slices.ContainsFunc(s.Inside("batch-1").Opened(), func(d api.SessionDirective) bool { return d.User == "bob" && d.Sudo })
		})
		if got := mountedAt(s.Provider.Mounted("batch-1")); got != "/home/ada /home/bob /mnt/team/jobs/ada /mnt/team/jobs/bob /mnt/team/notebooks/bob" {
			t.Errorf("the machine mounts %q", got)
		}
		for _, m := range s.Provider.Mounted("batch-1") {
			if info, err := os.Stat(filepath.Join(m.Source, m.Sub)); err != nil || !info.IsDir() {
				t.Errorf("%s of %s is not there: %v", m.Sub, m.Source, err)
			}
		}
	})
	t.Run("what is private to who is gone goes too", func(t *testing.T) {
		if _, err := s.CancelJob(ctx, first.ID); err != nil {
			t.Fatal(err)
		}
		s.MustEnd(first.ID)
		s.Until("ada's folders are gone", func() bool {
			return mountedAt(s.Provider.Mounted("batch-1")) == "/home/bob /mnt/team/jobs/bob /mnt/team/notebooks/bob"
		})
		next, err := s.Submit(ctx, api.SubmitRequest{As: "grace", JobSpec: dspool.JobSpec{Command: []string{"true"}}})
		if err != nil {
			t.Fatal(err)
		}
		s.MustEnd(next.ID)
		if got := <-started; got != "/home/bob /home/grace /mnt/team/jobs/bob /mnt/team/jobs/grace /mnt/team/notebooks/bob" {
			t.Errorf("when grace's task began, the machine mounted %q", got)
		}
	})
	t.Run("while its machines are there, the pool stays as it is", func(t *testing.T) {
		for text, want := range map[string]string{
			strings.Replace(rootConfig, "sudo: true", "sudo: false", 1):            "sudo of pool batch cannot be changed",
			strings.Replace(rootConfig, "jobs_share: team", "jobs_share: home", 1): "the share of jobs cannot be changed",
		} {
			if _, err := s.Apply(ctx, s.ConfigRequest(text)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestNobodyIsRootWhereMountingFails(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: rootConfig})
	s.Provider.FailMount(errors.New("the share does not answer"))
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"true"}})
	s.Until("the mount was tried", func() bool { return s.Provider.MountsFailed() > 1 })
	if n := len(s.Spawned(job.ID)); n != 0 {
		t.Errorf("%d tasks ran", n)
	}
	s.Provider.FailMount(nil)
	if j := s.MustEnd(job.ID); j.State != dspool.JobSucceeded {
		t.Errorf("job ended %s: %s", j.State, j.Reason)
	}
}

func TestNoShareOfRootsHoldsAnother(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	text := strings.NewReplacer("team: {kind: dir}", "team: {kind: dir}\n  all: {path: "+filepath.Join(s.Dir, "shares")+"}", "shares: [home, team]", "shares: [home, team, all]").Replace(rootConfig)
	_, err := s.Apply(t.Context(), s.ConfigRequest(text))
	if err == nil || !strings.Contains(err.Error(), "would see share home in share all") {
		t.Errorf("%v", err)
	}
	if _, err := s.Apply(t.Context(), s.ConfigRequest(strings.Replace(text, "sudo: true", "sudo: false", 1))); err != nil {
		t.Error(err)
	}
}
