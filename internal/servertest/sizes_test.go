package servertest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

func TestPeopleChooseTheSizeOfTheirMachine(t *testing.T) {
	t.Parallel()
	// come opens a session as the gateway does, and returns when it has opened or never will.
	come := func(t *testing.T, s *servertest.System, user, size string) (last api.SessionStep, err error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
		defer cancel()
		open := api.OpenSession{Connection: fmt.Sprint(user, " on ", size), User: user, Size: size, Protocol: dspool.ProtocolSSH, From: "192.0.2.1:1", Auth: "key"}
		err = s.Server.Control.OpenSession(ctx, open, func(st api.SessionStep) error { last = st; return nil })
		return last, err
	}
	// wants says how a refusal reads.
	wants := func(t *testing.T, err error, code dspool.Code, message, hint string) {
		t.Helper()
		var e *dspool.Error
		if !errors.As(err, &e) || e.Code != code || e.Message != message || e.Hint != hint {
			t.Errorf("got %#v, want %s: %s (%s)", err, code, message, hint)
		}
	}
	const first = "end it first, or leave the size out"
	t.Run("they get one, and are told why another is not to be had beside it", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{})
		list := func(user string) dspool.Session {
			t.Helper()
			l, err := s.Sessions(t.Context(), client.SessionFilter{User: user})
			if err != nil || len(l.Items) != 1 {
				t.Fatalf("%+v, %v", l, err)
			}
			return l.Items[0]
		}
		if _, err := come(t, s, "ada", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := come(t, s, "bob", "large"); err != nil {
			t.Fatal(err)
		}
		ada, bob := list("ada"), list("bob")
		if ada.Size != "" || ada.Machine != "batch-1" || bob.Size != "large" || bob.Machine != "batch-2" {
			t.Errorf("%+v and %+v", ada, bob)
		}
		m, err := s.Machine(t.Context(), "batch-2")
		if err != nil || m.Size != "large" || bob.Request != (dspool.Resources{CPUs: m.Resources.CPUs / 4, Memory: m.Resources.Memory / 4}) {
			t.Errorf("%s of %s, %v: bob holds %s", m.Name, m.Size, err, bob.Request)
		}
		for _, size := range []string{"", "large"} {
			if last, err := come(t, s, "bob", size); err != nil || last.Session != bob.ID {
				t.Errorf("bob comes again with size %q: %+v, %v", size, last, err)
			}
		}
		if _, err := come(t, s, "ada", "small"); err != nil { // which hers happens to have
			t.Error(err)
		}
		_, err = come(t, s, "bob", "small")
		wants(t, err, dspool.Conflict, "your session in pool batch is on batch-2, of size large", first)
		_, err = come(t, s, "bob", "huge")
		wants(t, err, dspool.Invalid, `pool batch has no size "huge"`, "its sizes: small, large")
		_, err = come(t, s, "grace", "huge")
		wants(t, err, dspool.Invalid, `pool batch has no size "huge"`, "its sizes: small, large")
		if l, err := s.Sessions(t.Context(), client.SessionFilter{User: "grace", All: true}); err != nil || len(l.Items) > 0 {
			t.Errorf("a refusal leaves %+v, %v", l.Items, err)
		}
	})
	t.Run("apps ask for it likewise", func(t *testing.T) {
		s := newRogues(t, "")
		ada, bob := s.As("ada"), s.As("bob")
		req := api.AppRequest{Name: "jupyter", Command: []string{"jupyter"}, Size: "huge"}
		_, err := ada.WantApp(t.Context(), req)
		wants(t, err, dspool.Invalid, `pool batch has no size "huge"`, "its sizes: small, large")
		req.Size = "large"
		a, err := ada.WantApp(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		session := func(id int64) dspool.Session {
			t.Helper()
			d, err := s.Session(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return d.Session
		}
		if x := session(a.Session); x.Size != "large" || x.Request.CPUs != 4 {
			t.Errorf("%+v", x)
		}
		req.Size = "small"
		_, err = ada.WantApp(t.Context(), req)
		wants(t, err, dspool.Conflict, "your session in pool batch waits for a machine of size large", first)
		for _, size := range []string{"", "large"} {
			req.Size = size
			if again, err := ada.WantApp(t.Context(), req); err != nil || again.Session != a.Session {
				t.Errorf("with size %q: %+v, %v", size, again, err)
			}
		}
		req.Size = ""
		if a, err = bob.WantApp(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		req.Size = "large"
		_, err = bob.WantApp(t.Context(), req)
		wants(t, err, dspool.Conflict, "your session in pool batch waits for a machine of any size", first)
		s.boot("batch-1")
		if m, err := s.Machine(t.Context(), "batch-1"); err != nil || m.Size != "large" {
			t.Errorf("%+v, %v", m, err)
		}
	})
	t.Run("who waits for one does so while machines of another size are idle, and one of those makes room", func(t *testing.T) {
		t.Parallel()
		s := servertest.New(t, servertest.Options{Config: oneMachine})
		s.Until("the machine that is always there", func() bool {
			m, err := s.Machine(t.Context(), "batch-1")
			return err == nil && m.State == dspool.Ready
		})
		last, err := come(t, s, "ada", "large")
		if err != nil || last.Ready == nil && last.Failed == nil {
			t.Fatalf("%+v, %v", last, err)
		}
		m, err := s.Machine(t.Context(), "batch-2")
		if err != nil || m.Size != "large" {
			t.Errorf("%+v, %v", m, err)
		}
		gone, err := s.Machine(t.Context(), "batch-1")
		if want := "makes room for a machine of size large in pool batch, for which ada waits"; err != nil || gone.Reason.Text != want && gone.State != dspool.Gone {
			t.Errorf("%+v, %v", gone, err)
		}
	})
}

// oneMachine is a pool that always has one machine and never two.
const oneMachine = `
server: {listen: "127.0.0.1:0"}
users: {list: [{name: ada}]}
defaults: {user: ada, pool: batch, jobs_share: team}
sizes:
  small: {cpus: 1, memory: 2GiB, disk: 1GiB}
  large: {cpus: 4, memory: 8GiB, disk: 1GiB}
shares:
  home: {kind: dir, mount: /home}
  team: {kind: dir}
images: {UbuntuDSVM: {}}
pools:
  batch: {kind: interactive, image: UbuntuDSVM, sizes: [small, large], min: 1, max: 1, shares: [home, team], policy: {idle_after: 1h, start_timeout: 30s}}
`
