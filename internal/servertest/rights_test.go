package servertest_test

import (
	"sync/atomic"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/servertest"
)

func TestRightsThatChange(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	change := func(req api.ChangeUserRequest) api.ChangedUser {
		t.Helper()
		u, err := s.ChangeUser(ctx, "ada", req)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	groups := func(names ...string) api.ChangeUserRequest {
		names = append([]string{}, names...) // none is not null
		return api.ChangeUserRequest{Groups: &names}
	}
	one := func() dspool.Session {
		t.Helper()
		list, err := s.Sessions(ctx, client.SessionFilter{User: "ada"})
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("%+v, %v", list.Items, err)
		}
		return list.Items[0]
	}

	if u := change(groups("vision")); u.Old != (api.OldRights{}) {
		t.Errorf("with nothing there, %+v has the old groups", u.Old)
	}
	old := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	s.Running(old.ID, 1)
	logIn(t, s, "ada", "c1")
	inside := s.Inside(one().Machine)

	// The machine is slow to take the groups away: a login waits for it.
	var slow atomic.Bool
	slow.Store(true)
	inside.RefuseSessions(func(api.SessionDirective) error {
		if slow.Load() {
			return host.ErrAway
		}
		return nil
	})
	if u := change(groups()); u.Old != (api.OldRights{Tasks: 1, Sessions: 1, Connections: 1}) {
		t.Errorf("%+v has the old groups", u.Old)
	}
	in := make(chan []api.GroupID, 1)
	go func() {
		logIn(t, s, "ada", "c2")
		in <- inside.Opened()[0].Groups
	}()
	s.Until("it has come", func() bool { return one().Connections == 2 })
	select {
	case <-in:
		t.Error("a login did not wait for its rights")
	default:
	}
	slow.Store(false)
	if got := <-in; len(got) != 0 {
		t.Errorf("a login with the groups %v", got)
	}

	// What begins now has the new ones, and is not ended.
	fresh := s.MustSubmit(dspool.JobSpec{Command: []string{"forever"}})
	s.Running(fresh.ID, 1)
	if u := change(api.ChangeUserRequest{Now: true}); u.Old != (api.OldRights{Tasks: 1, Sessions: 1, Connections: 1}) {
		t.Errorf("%+v was ended", u.Old)
	}
	if j := s.MustEnd(old.ID); j.State != dspool.JobCancelled || !j.Reason.Is(dspool.WhyRightsChanged) {
		t.Errorf("%+v", j)
	}
	s.Until("the session has ended", func() bool {
		d, err := s.Session(ctx, 1)
		return err == nil && d.State == dspool.SessionClosed && d.Reason.Is(dspool.WhyRightsChanged)
	})
	s.Running(fresh.ID, 1)
	if u := change(api.ChangeUserRequest{Now: true}); u.Old != (api.OldRights{}) {
		t.Errorf("%+v is left", u.Old)
	}
	if _, err := s.As("ada").ChangeUser(ctx, "ada", api.ChangeUserRequest{Now: true}); dspool.ErrorCode(err) != dspool.Forbidden {
		t.Errorf("by herself: %v", err)
	}
	if _, err := s.CancelJob(ctx, fresh.ID); err != nil {
		t.Fatal(err)
	}
	s.MustEnd(fresh.ID)
}

func TestTasksAreInTheirUsersGroups(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	names := []string{"vision"}
	if _, err := s.ChangeUser(t.Context(), "ada", api.ChangeUserRequest{Groups: &names}); err != nil {
		t.Fatal(err)
	}
	s.MustEnd(s.MustSubmit(dspool.JobSpec{Command: []string{"true"}}).ID)
	spawned := s.Inside("batch-1").Spawned()
	if got := spawned[0]; len(got.Groups) != 1 || got.Groups[0].Name != "vision" || got.Groups[0].GID < 20000 {
		t.Errorf("%+v", got)
	}
}
