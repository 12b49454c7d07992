package servertest_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
)

func TestPeopleAreApart(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	ada, bob, grace := s.As("ada"), s.As("bob"), s.As("grace")
	job, err := bob.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"forever"}, Array: "1-2"}})
	if err != nil {
		t.Fatal(err)
	}
	tasks := s.Running(job.ID, 2)
	token, err := bob.AddToken(ctx, api.AddTokenRequest{Name: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	op, err := grace.RemoveMachine(ctx, tasks[0].Machine, false)
	if err != nil {
		t.Fatal(err)
	}
	missing := func(id int64) map[string]error {
		errs := map[string]error{}
		note := func(what string, err error) { errs[what] = err }
		_, err := ada.Job(ctx, id)
		note("show", err)
		_, err = ada.CancelJob(ctx, id)
		note("cancel", err)
		_, err = ada.Tasks(ctx, id, client.TaskFilter{})
		note("tasks", err)
		_, err = ada.Task(ctx, id, 1)
		note("task", err)
		_, err = ada.CopyOutput(ctx, client.Output{Job: id, Index: 1, Stream: "stdout"}, io.Discard)
		note("output", err)
		_, err = ada.WaitJob(ctx, id, nil)
		note("wait", err)
		_, err = ada.Events(ctx, client.EventFilter{Job: id})
		note("events", err)
		for _, err = range ada.StreamEvents(ctx, client.EventFilter{Job: id, After: 1}) {
			break
		}
		note("event stream", err)
		_, err = ada.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}, After: []int64{id}}})
		note("wait for it", err)
		return errs
	}
	t.Run("another's job looks as if it were missing", func(t *testing.T) {
		theirs, none := missing(job.ID), missing(999)
		for what, err := range theirs {
			if err == nil || strings.ReplaceAll(err.Error(), "job 1", "job 999") != none[what].Error() || dspool.ErrorCode(err) != dspool.ErrorCode(none[what]) {
				t.Errorf("%s: %v, and of a missing one %v", what, err, none[what])
			}
		}
		for what, err := range map[string]error{
			"revoke token":   ada.RevokeToken(ctx, token.ID),
			"operation":      errOf(ada.Operation(ctx, op.ID, 0)),
			"missing token":  ada.RevokeToken(ctx, "0000000000000000"),
			"missing action": errOf(ada.Operation(ctx, "0000000000000000", 0)),
		} {
			if dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("nothing of it is in any listing", func(t *testing.T) {
		var text strings.Builder
		see := func(v any, err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
			text.WriteString(mustJSON(t, v))
		}
		see(ada.Jobs(ctx, client.JobFilter{}))
		see(ada.Jobs(ctx, client.JobFilter{User: "bob"}))
		see(ada.Tokens(ctx, ""))
		see(ada.Tokens(ctx, "bob"))
		see(ada.Users(ctx))
		see(ada.Events(ctx, client.EventFilter{}))
		see(ada.Events(ctx, client.EventFilter{Machine: tasks[0].Machine}))
		see(ada.Usage(ctx, "user", time.Time{}, time.Time{}))
		see(ada.Usage(ctx, "job", time.Time{}, time.Time{}))
		see(ada.Usage(ctx, "pool", time.Time{}, time.Time{}))
		see(ada.Machines(ctx, "", true))
		see(ada.Machine(ctx, tasks[0].Machine))
		see(ada.Status(ctx))
		see(ada.Pools(ctx))
		if strings.Contains(text.String(), "bob") || strings.Contains(text.String(), token.ID) {
			i := strings.Index(text.String(), "bob")
			t.Errorf("ada sees …%s…", text.String()[max(0, i-200):min(text.Len(), i+100)])
		}
	})
	t.Run("only administrators may do what is for all", func(t *testing.T) {
		five := 5
		for what, do := range map[string]func(*client.Client) error{
			"apply": func(c *client.Client) error {
				return errOf(c.Apply(ctx, api.ApplyRequest{Name: "x", Text: "pools: [", DryRun: true}))
			},
			"build":        func(c *client.Client) error { return errOf(c.BuildImage(ctx, "nope")) },
			"remove image": func(c *client.Client) error { return c.RemoveImage(ctx, "nope") },
			"resize":       func(c *client.Client) error { return errOf(c.ResizePool(ctx, "nope", api.ResizeRequest{Max: &five})) },
			"remove":       func(c *client.Client) error { return errOf(c.RemoveMachine(ctx, "nope", true)) },
			"add user": func(c *client.Client) error {
				return errOf(c.AddUser(ctx, api.AddUserRequest{Name: "../x", Admin: true}))
			},
			"remove user": func(c *client.Client) error { return c.RemoveUser(ctx, "nope") },
			"submit as": func(c *client.Client) error {
				return errOf(c.Submit(ctx, api.SubmitRequest{As: "nope", JobSpec: dspool.JobSpec{Command: []string{"true"}}}))
			},
			"token for": func(c *client.Client) error { return errOf(c.AddToken(ctx, api.AddTokenRequest{User: "nope"})) },
		} {
			if err := do(ada); dspool.ErrorCode(err) != dspool.Forbidden {
				t.Errorf("%s by ada: %v", what, err)
			}
			if code := dspool.ErrorCode(do(grace)); code != dspool.NotFound && code != dspool.Invalid {
				t.Errorf("%s by grace: %s", what, code)
			}
		}
	})
	t.Run("administrators see and cancel everybody's", func(t *testing.T) {
		list, err := grace.Jobs(ctx, client.JobFilter{User: "bob"})
		if err != nil || len(list.Items) != 1 {
			t.Errorf("%v, %v", list.Items, err)
		}
		if _, err := grace.CancelJob(ctx, job.ID); err != nil {
			t.Error(err)
		}
		if j := s.MustEnd(job.ID); j.State != dspool.JobCancelled || j.Reason.Text != "cancelled by grace" {
			t.Errorf("job ended %s: %s", j.State, j.Reason)
		}
	})
	s.AtRest()
	t.Run("a user's bill is the own part, by whatever", func(t *testing.T) {
		for _, by := range []string{"user", "job", "pool"} {
			u, err := bob.Usage(ctx, by, time.Time{}, time.Time{})
			if err != nil || len(u.Rows) != 1 || u.Rows[0].Tasks != 2 || u.Cost <= 0 || u.Cost != servertest.Cost(u.Rows) {
				t.Errorf("by %s: %+v, %v", by, u, err)
			}
		}
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, servertest.Options{})
	ctx := t.Context()
	refused := func(t *testing.T, c *client.Client) {
		t.Helper()
		if _, err := c.Whoami(ctx); dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Error(err)
		}
	}
	t.Run("none, a wrong one and one that is no token are refused", func(t *testing.T) {
		for _, secret := range []string{"", "wrong", "dsp_" + strings.Repeat("a", 32), strings.Repeat("x", 400)} {
			refused(t, s.WithToken(secret))
		}
	})
	t.Run("an expired one is refused", func(t *testing.T) {
		token, err := s.AddToken(ctx, api.AddTokenRequest{User: "ada", Expires: dspool.Duration(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		c := s.WithToken(token.Secret)
		if me, err := c.Whoami(ctx); time.Now().Before(*token.Expires) && (err != nil || me.User != "ada" || me.Admin) {
			t.Errorf("%+v, %v", me, err)
		}
		s.Until("it has expired", func() bool { _, err := c.Whoami(ctx); return err != nil })
		refused(t, c)
	})
	t.Run("a revoked one is refused at once, and ends its streams", func(t *testing.T) {
		c := s.As("ada")
		me, err := c.Tokens(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		streams, cancel := context.WithTimeout(ctx, servertest.Patience)
		defer cancel()
		ended := make(chan error, 1)
		first := make(chan bool, 1)
		go func() {
			for _, err := range c.StreamEvents(streams, client.EventFilter{After: 1}) {
				if err != nil {
					ended <- err
					return
				}
				select {
				case first <- true:
				default:
				}
			}
		}()
		<-first
		for _, token := range me.Items {
			if err := c.RevokeToken(ctx, token.ID); err != nil && dspool.ErrorCode(err) != dspool.Unauthenticated {
				t.Fatal(err)
			}
		}
		for _, token := range me.Items {
			_ = s.RevokeToken(ctx, token.ID)
		}
		refused(t, c)
		if err := <-ended; dspool.ErrorCode(err) != dspool.Unauthenticated {
			t.Errorf("the stream ended with %v", err)
		}
	})
	t.Run("a removed user's are refused, the jobs cancelled, the files kept", func(t *testing.T) {
		c := s.As("bob")
		job, err := c.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"forever"}}})
		if err != nil {
			t.Fatal(err)
		}
		after, err := c.Submit(ctx, api.SubmitRequest{JobSpec: dspool.JobSpec{Command: []string{"true"}, After: []int64{job.ID}}})
		if err != nil {
			t.Fatal(err)
		}
		s.Running(job.ID, 1)
		if err := s.RemoveUser(ctx, "bob"); err != nil {
			t.Fatal(err)
		}
		refused(t, c)
		for _, id := range []int64{job.ID, after.ID} {
			if j := s.MustEnd(id); j.State != dspool.JobCancelled {
				t.Errorf("job %d ended %s: %s", id, j.State, j.Reason)
			}
		}
		if n := len(s.EventsOf("job.cancelled")); n != 2 {
			t.Errorf("%d jobs were told to be cancelled", n)
		}
		if _, err := os.Stat(filepath.Join(s.Dir, "shares", "home", "bob")); err != nil {
			t.Error(err)
		}
		if _, err := s.AddToken(ctx, api.AddTokenRequest{User: "bob"}); dspool.ErrorCode(err) != dspool.Invalid {
			t.Error(err)
		}
	})
	t.Run("secrets are nowhere in the state directory", func(t *testing.T) {
		token, err := s.AddToken(ctx, api.AddTokenRequest{User: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(s.Dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(text), token.Secret) {
				t.Errorf("%s holds the secret", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	s.AtRest()
}
