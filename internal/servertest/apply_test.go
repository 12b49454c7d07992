package servertest_test

import (
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

func TestApply(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	state := func() string {
		t.Helper()
		pools, err1 := s.Pools(ctx)
		sizes, err2 := s.Sizes(ctx)
		shares, err3 := s.Shares(ctx)
		users, err4 := s.Users(ctx)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range shares.Items {
			shares.Items[i].Free, shares.Items[i].Total = 0, 0
		}
		return mustJSON(t, pools.Items) + mustJSON(t, sizes.Items) + mustJSON(t, shares.Items) + mustJSON(t, users.Items)
	}
	change := func(pairs ...string) api.ApplyRequest {
		return s.ConfigRequest(strings.NewReplacer(pairs...).Replace(servertest.Config))
	}
	before := state()
	refused := func(t *testing.T, req api.ApplyRequest, problems int, words ...string) {
		t.Helper()
		_, err := s.Apply(ctx, req)
		if err == nil || len(client.Problems(err)) != problems {
			t.Fatalf("%v with %+v", err, client.Problems(err))
		}
		text := mustJSON(t, client.Problems(err))
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not say %s", text, w)
			}
		}
		if now := state(); now != before {
			t.Errorf("it changed\n%s to\n%s", before, now)
		}
	}
	t.Run("everything wrong is said at once, and nothing changes", func(t *testing.T) {
		refused(t, change("image: UbuntuDSVM", "image: UbuntuDSMV", "sizes: [small, large]", "sizes: [small, lagre]", "max: 4", "max: -4", "home: {kind: dir, mount: /home}", "home: {kind: dir, mount: /etc}"),
			4, "did you mean UbuntuDSVM?", "did you mean large?", "team.yaml:", "/etc")
	})
	t.Run("an unknown share is refused", func(t *testing.T) {
		refused(t, change("shares: [home, team]", "shares: [home, team, taem]"), 1, "did you mean team?")
	})
	t.Run("a dry run says what would change, and changes nothing", func(t *testing.T) {
		req := change("max: 4", "max: 9", "{name: bob}", "{name: bob}, {name: carol}")
		req.DryRun = true
		res, err := s.Apply(ctx, req)
		if err != nil || res.Applied || len(res.Changes) != 2 {
			t.Errorf("%+v, %v", res, err)
		}
		if now := state(); now != before {
			t.Errorf("it changed to %s", now)
		}
	})
	t.Run("the same file again changes nothing", func(t *testing.T) {
		if res, err := s.Apply(ctx, change()); err != nil || len(res.Changes) != 0 || !res.Applied {
			t.Errorf("%+v, %v", res, err)
		}
	})
	job := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	task := s.Running(job.ID, 1)[0]
	before = state()
	t.Run("a pool with machines or jobs is not removed", func(t *testing.T) {
		refused(t, change("  batch: {", "  other: {", "pool: batch", "pool: other"), 1, "pool batch cannot be removed: it has 1 machines and 1 jobs")
	})
	t.Run("a share that machines have mounted is not changed", func(t *testing.T) {
		refused(t, change("team: {kind: dir}", "team: {kind: dir, mount: /data}"), 1, "share team cannot be changed: 1 machines have mounted it and 1 jobs write there")
	})
	t.Run("a share that jobs write to is not removed", func(t *testing.T) {
		refused(t, change("team: {kind: dir}", "crew: {kind: dir}", "team]", "crew]", "jobs_share: team", "jobs_share: crew"), 1, "share team cannot be removed")
	})
	t.Run("sizes and prices change for machines to come", func(t *testing.T) {
		if _, err := s.Apply(ctx, change("price: 3.6", "price: 36")); err != nil {
			t.Fatal(err)
		}
		if m, err := s.Machine(ctx, task.Machine); err != nil || m.Price != 3.6 {
			t.Errorf("the price is %v, %v", m.Price, err)
		}
	})
	s.Inside(task.Machine).End(task.Attempt, 0)
	s.MustEnd(job.ID)
	s.AtRest()
	t.Run("a pool at rest is removed", func(t *testing.T) {
		if _, err := s.Apply(ctx, change("  batch: {", "  other: {", "pool: batch", "pool: other")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Pool(ctx, "batch"); dspool.ErrorCode(err) != dspool.NotFound {
			t.Error(err)
		}
		s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}).ID)
		s.AtRest()
	})
}
