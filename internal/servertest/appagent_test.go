package servertest_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

// The agent is the real one; what an app does is a script.
func TestAppsOnMachines(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{Config: webConfig})
	ctx := t.Context()
	ada := s.As("ada")
	runs := func(id int64) dspool.App {
		t.Helper()
		s.Until("the app runs", func() bool {
			a, err := s.App(ctx, id)
			return err == nil && a.State == dspool.AppRunning
		})
		a, err := s.App(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	open := func(user string) []dspool.App {
		t.Helper()
		list, err := s.Apps(ctx, client.AppFilter{User: user})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	t.Run("an app comes from zero machines, and stays over restarts of the server", func(t *testing.T) {
		a := wants(t, ada, notebook)
		var last api.SessionStep
		for st, err := range ada.AppSteps(ctx, a.ID) {
			if err != nil {
				t.Fatal(err)
			}
			last = st
		}
		if last.Ready == nil {
			t.Errorf("the last step is %+v", last)
		}
		before := runs(a.ID)
		s.Kill()
		s.Start()
		ada = s.As("ada")
		s.Restart()
		ada = s.As("ada")
		if after := runs(a.ID); mustJSON(t, after) != mustJSON(t, before) {
			t.Errorf("%+v became %+v", before, after)
		}
		if n := len(s.Inside(before.Machine).StartedApps()); n != 1 {
			t.Errorf("%d apps were started", n)
		}
		b := wants(t, ada, notebook)
		if now := runs(b.ID); now.Machine != before.Machine || now.Session != before.Session {
			t.Errorf("%+v", now)
		}
		if got, err := s.App(ctx, a.ID); err != nil || got.State != dspool.AppEnded {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("whenever it is stopped it ends, and nothing of it is left on its machine", func(t *testing.T) {
		for i := range 40 {
			if i%10 == 5 {
				s.Kill()
				s.Start()
				ada = s.As("ada")
			}
			a := wants(t, ada, notebook)
			for range rand.IntN(4) {
				s.Moment()
			}
			if _, err := ada.StopApp(ctx, a.ID); err != nil {
				t.Fatal(err)
			}
		}
		s.Until("all have ended", func() bool { return len(open("ada")) == 0 })
		s.Until("none is left", func() bool { return len(s.Inside("batch-1").StartedApps()) == 0 })
	})
	t.Run("JupyterHub comes back on another machine when its own dies", func(t *testing.T) {
		hub := func() (found dspool.App) {
			t.Helper()
			s.Until("JupyterHub runs", func() bool {
				i := slices.IndexFunc(open(dspool.HubUser), func(a dspool.App) bool { return a.State == dspool.AppRunning })
				if i >= 0 {
					found = open(dspool.HubUser)[i]
				}
				return i >= 0
			})
			return found
		}
		first := hub()
		s.Provider.Kill(first.Machine)
		s.Until("it has ended there", func() bool {
			a, err := s.App(ctx, first.ID)
			return err == nil && a.State == dspool.AppEnded
		})
		if next := hub(); next.Machine == first.Machine || next.User != dspool.HubUser {
			t.Errorf("%+v", next)
		}
	})
	t.Run("nothing is left of a team without notebooks", func(t *testing.T) {
		text := strings.Replace(servertest.Config, "shares:\n", "shares:\n  services: {mount: /home}\n", 1)
		if _, err := s.Apply(ctx, s.ConfigRequest(text)); err != nil {
			t.Fatal(err)
		}
		list, err := s.Sessions(ctx, client.SessionFilter{User: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list.Items {
			if _, err := s.CloseSession(ctx, x.ID); err != nil {
				t.Fatal(err)
			}
		}
		s.AtRest()
		u, err := s.Usage(ctx, "user", time.Time{}, time.Time{})
		if err != nil || !slices.ContainsFunc(u.Rows, func(r dspool.UsageRow) bool { return r.User == dspool.HubUser && r.Cost > 0 }) {
			t.Errorf("JupyterHub's machine is billed to nobody: %+v, %v", u.Rows, err)
		}
	})
}
