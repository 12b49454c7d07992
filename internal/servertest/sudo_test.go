package servertest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/servertest"
)

// rootConfig is Config with a pool on whose machines people become root.
var rootConfig = strings.NewReplacer("kind: batch", "kind: interactive", "policy: {", "policy: {sudo: true, ").Replace(servertest.Config)

func mountedAt(mounts []provider.Mount) string {
	var targets []string
	for _, m := range mounts {
		targets = append(targets, m.Target)
	}
	slices.Sort(targets)
	return strings.Join(targets, " ")
}

func TestMachinesOfRoots(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: rootConfig})
	ctx := t.Context()
	opened := func(machine, user string) {
		t.Helper()
		s.Until(user+"'s session is open", func() bool {
			return slices.ContainsFunc(s.Inside(machine).Opened(), func(d api.SessionDirective) bool { return d.User == user && d.Sudo })
		})
	}
	logIn(t, s, "ada", "conn-ada")
	opened("batch-1", "ada")
	t.Run("the shares are mounted without what is private", func(t *testing.T) {
		want := []provider.Mount{
			{Source: filepath.Join(s.Dir, "shares/home"), Target: "/home", Empty: true},
			{Source: filepath.Join(s.Dir, "shares/team"), Target: "/mnt/team", Cover: []string{"jobs", "notebooks"}},
		}
		if got := s.Provider.Spec("batch-1").Mounts; mustJSON(t, got) != mustJSON(t, want) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("who comes gets a machine alone, with what is their own", func(t *testing.T) {
		logIn(t, s, "bob", "conn-bob")
		opened("batch-2", "bob")
		for machine, user := range map[string]string{"batch-1": "ada", "batch-2": "bob"} {
			want := "/home/" + user + " /mnt/team/jobs/" + user + " /mnt/team/notebooks/" + user
			if got := mountedAt(s.Provider.Mounted(machine)); got != want {
				t.Errorf("%s mounts %q", machine, got)
			}
			for _, m := range s.Provider.Mounted(machine) {
				if info, err := os.Stat(filepath.Join(m.Source, m.Sub)); err != nil || !info.IsDir() {
					t.Errorf("%s of %s is not there: %v", m.Sub, m.Source, err)
				}
			}
		}
	})
	t.Run("nobody's job meets a root", func(t *testing.T) {
		_, err := s.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}}})
		if dspool.ErrorCode(err) != dspool.Invalid || !strings.Contains(err.Error(), "takes no jobs") {
			t.Errorf("%v", err)
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
	t.Run("a machine on which somebody was root is nobody else's", func(t *testing.T) {
		mine, err := s.Sessions(ctx, client.SessionFilter{User: "ada"})
		if err != nil || len(mine.Items) != 1 {
			t.Fatalf("%+v, %v", mine, err)
		}
		if _, err := s.CloseSession(ctx, mine.Items[0].ID); err != nil {
			t.Fatal(err)
		}
		s.Until("the machine is gone", func() bool {
			m, err := s.Machine(ctx, "batch-1")
			return err == nil && m.State == dspool.Gone
		})
		if m, err := s.Machine(ctx, "batch-1"); err != nil || !strings.Contains(m.Reason.Text, "somebody was root here") {
			t.Errorf("%q, %v", m.Reason, err)
		}
		logIn(t, s, "grace", "conn-grace")
		opened("batch-3", "grace")
	})
}

func TestNobodyIsRootWhereMountingFails(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: rootConfig})
	s.Provider.FailMount(errors.New("the share does not answer"))
	came := make(chan struct{})
	go func() {
		defer close(came)
		logIn(t, s, "ada", "conn-ada")
	}()
	s.Until("the mount was tried", func() bool { return s.Provider.MountsFailed() > 1 })
	if n := len(s.Inside("batch-1").Opened()); n != 0 {
		t.Errorf("%d sessions are open", n)
	}
	s.Provider.FailMount(nil)
	s.Until("ada's session is open", func() bool { return len(s.Inside("batch-1").Opened()) == 1 })
	<-came
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
