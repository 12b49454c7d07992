package servertest_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/servertest"
	"github.com/dspool/dspool/internal/testkit"
)

// notebook is an app with secrets.
var notebook = api.AppRequest{
	Name: "jupyter", Command: []string{"jupyterhub-singleuser", "--port={port}"}, Env: map[string]string{"JUPYTERHUB_API_TOKEN": "0123456789abcdef0123"},
	Kernels: "/user/ada/api", Token: "fedcba98765432100000",
}

// hand is a machine whose agent's words on sessions and apps are the test's.
type hand struct {
	*rogue
	s *rogues
}

func (s *rogues) hand(machine string) *hand { return &hand{rogue: s.joined(machine), s: s} }

// session waits until the directive of a user's session is as ok says.
func (h *hand) session(user, what string, ok func(api.SessionDirective) bool) (found api.SessionDirective) {
	h.t.Helper()
	h.s.Until(user+"'s session "+what, func() bool {
		d, _ := h.directives()
		i := slices.IndexFunc(d.Sessions, func(x api.SessionDirective) bool { return x.User == user })
		if i < 0 || !ok(d.Sessions[i]) {
			return false
		}
		found = d.Sessions[i]
		return true
	})
	return found
}

// told waits until exactly these apps are wanted in a user's session.
func (h *hand) told(user string, ids ...int64) api.SessionDirective {
	h.t.Helper()
	return h.session(user, fmt.Sprintf("has the apps %v", ids), func(d api.SessionDirective) bool {
		run := slices.DeleteFunc(slices.Clone(d.Apps), func(a api.AppDirective) bool { return a.Stop })
		return slices.EqualFunc(run, ids, func(a api.AppDirective, id int64) bool { return a.ID == id })
	})
}

// says reports a session as open with these apps.
func (h *hand) says(session int64, apps ...api.AppReport) {
	h.t.Helper()
	r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: session, State: dspool.SessionOpen, Apps: apps}}}
	if status := h.call("POST", "/agent/v1/reports", r, nil); status != 204 {
		h.t.Fatalf("report: %d", status)
	}
}

// opens opens a user's session.
func (h *hand) opens(user string) api.SessionDirective {
	h.t.Helper()
	d := h.session(user, "is wanted", func(api.SessionDirective) bool { return true })
	h.says(d.ID)
	return d
}

func running(id int64, port int) api.AppReport {
	return api.AppReport{ID: id, State: dspool.AppRunning, Port: port}
}

func ended(id int64, code int, words string) api.AppReport {
	return api.AppReport{ID: id, State: dspool.AppEnded, ExitCode: &code, Reason: testkit.Stated(words)}
}

func (h *hand) app(id int64) dspool.App {
	h.t.Helper()
	a, err := h.s.App(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// wants has a user want an app.
func wants(t *testing.T, c *client.Client, req api.AppRequest) dspool.App {
	t.Helper()
	a, err := c.WantApp(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// steps reads all steps of an app in the background.
func steps(t *testing.T, c *client.Client, id int64) <-chan []api.SessionStep {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Patience)
	out := make(chan []api.SessionStep, 1)
	next, stop := iter.Pull2(c.AppSteps(ctx, id))
	first, err, ok := next() // from now on nothing is missed
	if err != nil || !ok {
		t.Fatalf("the first step: %v", err)
	}
	go func() {
		defer cancel()
		defer stop()
		list := []api.SessionStep{first}
		for {
			st, err, ok := next()
			if !ok || err != nil {
				out <- list
				return
			}
			list = append(list, st)
		}
	}()
	return out
}

func (s *rogues) targets() []api.AppTarget {
	s.t.Helper()
	d, err := s.Server.Control.GatewayDirectives(s.t.Context(), 0, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return d.Web.Apps
}

func TestApps(t *testing.T) {
	t.Parallel()
	t.Run("an app opens its user's session, says how it comes along, and is reached once it listens", func(t *testing.T) {
		s := newRogues(t, "")
		ada := s.As("ada")
		a := wants(t, ada, notebook)
		if a.State != dspool.AppWaiting || a.User != "ada" || a.Pool != "batch" || a.Machine != "" {
			t.Fatalf("%+v", a)
		}
		seen := steps(t, ada, a.ID)
		h := s.hand("batch-1")
		d := h.opens("ada")
		if len(d.Apps) != 0 {
			t.Errorf("before the session is open its machine is told %+v", d.Apps)
		}
		d = h.told("ada", a.ID)
		want := api.AppDirective{ID: a.ID, Name: "jupyter", Command: notebook.Command, Env: notebook.Env, Kernels: notebook.Kernels, Token: notebook.Token}
		if mustJSON(t, d.Apps[0]) != mustJSON(t, want) {
			t.Errorf("told %+v", d.Apps[0])
		}
		if got := h.app(a.ID); got.State != dspool.AppStarting || got.URL != "" {
			t.Errorf("%+v", got)
		}
		if n := len(s.targets()); n != 0 {
			t.Errorf("%d apps are reached before they listen", n)
		}
		h.says(d.ID, running(a.ID, 40001))
		got := h.app(a.ID)
		if got.State != dspool.AppRunning || got.Port != 40001 || got.Machine != "batch-1" || got.URL != fmt.Sprintf("http://%d.app.dspool.internal:8445", a.ID) || got.Started == nil {
			t.Errorf("%+v", got)
		}
		m, err := s.Machine(t.Context(), "batch-1")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.targets(); len(got) != 1 || got[0] != (api.AppTarget{ID: a.ID, User: "ada", UID: d.UID, Session: d.ID, Address: m.Address + ":40001"}) {
			t.Errorf("targets %+v of a machine at %s", got, m.Address)
		}
		list := <-seen
		last := list[len(list)-1]
		if last.Ready == nil || last.Ready.Machine != "batch-1" || last.Reason.Text != "jupyter runs on batch-1" {
			t.Errorf("the last step is %+v", last)
		}
		if list[0].Reason.Text == "" || list[0].Session != d.ID {
			t.Errorf("the first step is %+v", list[0])
		}
		for range 2 { // twice changes nothing
			h.says(d.ID, running(a.ID, 40001))
		}
		if n := len(s.EventsOf("app.running")); n != 1 {
			t.Errorf("%d events of one app that runs", n)
		}
		for _, e := range s.EventsOf("app.running") {
			if !strings.Contains(e.Message, "app jupyter of ada runs on batch-1") {
				t.Error(e.Message)
			}
		}
		stopped, err := ada.StopApp(t.Context(), a.ID)
		if err != nil || stopped.State != dspool.AppStopping || stopped.Reason.Text != "stopped by ada" {
			t.Errorf("%+v, %v", stopped, err)
		}
		if n := len(s.targets()); n != 0 {
			t.Errorf("%d apps are reached while they are ended", n)
		}
		if told := h.told("ada"); len(told.Apps) != 1 || told.Apps[0].ID != a.ID || len(told.Apps[0].Env) != 0 {
			t.Errorf("its machine is told %+v", told.Apps)
		}
		h.says(d.ID, running(a.ID, 40001)) // sent before it was told
		if got := h.app(a.ID); got.State != dspool.AppStopping {
			t.Errorf("%+v", got)
		}
		h.says(d.ID, ended(a.ID, 143, ""))
		if got := h.app(a.ID); got.State != dspool.AppEnded || got.Reason.Text != "stopped by ada" || got.Port != 0 || got.Ended == nil || *got.ExitCode != 143 {
			t.Errorf("%+v", got)
		}
		if again, err := ada.StopApp(t.Context(), a.ID); err != nil || again.State != dspool.AppEnded {
			t.Errorf("%+v, %v", again, err)
		}
	})
	t.Run("one that ends says why to its user, and its secrets to nobody", func(t *testing.T) {
		s := newRogues(t, "")
		ada := s.As("ada")
		a := wants(t, ada, notebook)
		seen := steps(t, ada, a.ID)
		h := s.hand("batch-1")
		d := h.opens("ada")
		h.told("ada", a.ID)
		h.says(d.ID, ended(a.ID, 1, "\x1b[2Jcannot reach http://x?token="+notebook.Token+" with "+notebook.Env["JUPYTERHUB_API_TOKEN"]))
		got := h.app(a.ID)
		if got.State != dspool.AppEnded || *got.ExitCode != 1 || got.Reason.Text != " [2Jcannot reach http://x?token=… with …" {
			t.Errorf("%+v", got)
		}
		list := <-seen
		if last := list[len(list)-1]; last.Failed == nil || !strings.Contains(last.Failed.Message, "exit code 1: ") || !strings.Contains(last.Failed.Hint, "jupyter.log") {
			t.Errorf("the last step is %+v", last)
		}
		for _, e := range s.EventsOf("app.ended") {
			if e.Reason.Text != "exit code 1" || e.User != "ada" {
				t.Errorf("%+v", e)
			}
		}
		h.told("ada") // so that the machine may forget it
		h.says(d.ID, running(a.ID, 40001))
		if got := h.app(a.ID); got.State != dspool.AppEnded {
			t.Errorf("it lives again: %+v", got)
		}
		text := mustJSON(t, got) + mustJSON(t, list)
		events, err := s.Events(t.Context(), client.EventFilter{Limit: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		text += mustJSON(t, events)
		if all, err := s.Apps(t.Context(), client.AppFilter{All: true}); err != nil || len(all.Items) != 1 {
			t.Errorf("%+v, %v", all, err)
		} else {
			text += mustJSON(t, all)
		}
		if strings.Contains(text, notebook.Token) || strings.Contains(text, notebook.Env["JUPYTERHUB_API_TOKEN"]) {
			t.Errorf("a secret is in %s", text)
		}
	})
	t.Run("another of its name begins once the first has ended", func(t *testing.T) {
		s := newRogues(t, "")
		ada := s.As("ada")
		first := wants(t, ada, notebook)
		h := s.hand("batch-1")
		d := h.opens("ada")
		h.told("ada", first.ID)
		h.says(d.ID, running(first.ID, 40001))
		editor := wants(t, ada, api.AppRequest{Name: "editor", Command: []string{"vi"}})
		dropped, second := wants(t, ada, notebook), wants(t, ada, notebook)
		if got := h.app(dropped.ID); got.State != dspool.AppEnded || got.Reason.Text != "another was started in its place" {
			t.Errorf("%+v", got)
		}
		if second.Session != first.Session || second.State != dspool.AppWaiting {
			t.Errorf("%+v", second)
		}
		h.told("ada", editor.ID)
		seen := steps(t, ada, second.ID)
		h.says(d.ID, ended(first.ID, 0, ""), api.AppReport{ID: editor.ID, State: dspool.AppStarting})
		h.told("ada", editor.ID, second.ID)
		h.says(d.ID, running(second.ID, 40002), running(editor.ID, 40003))
		if list := <-seen; list[0].Reason.Text != "ending the jupyter before" {
			t.Errorf("the first step is %+v", list[0])
		}
		if n := len(s.targets()); n != 2 {
			t.Errorf("%d apps are reached", n)
		}
	})
	t.Run("one that begins anew is not reached until it listens again", func(t *testing.T) {
		s := newRogues(t, "")
		a := wants(t, s.As("ada"), notebook)
		h := s.hand("batch-1")
		d := h.opens("ada")
		h.told("ada", a.ID)
		h.says(d.ID, running(a.ID, 40001))
		h.says(d.ID, api.AppReport{ID: a.ID, State: dspool.AppStarting, Reason: testkit.Stated("exit code 1")})
		if got := h.app(a.ID); got.State != dspool.AppStarting || got.Port != 0 || len(s.targets()) != 0 {
			t.Errorf("%+v", got)
		}
		h.says(d.ID, running(a.ID, 40002))
		if got := h.app(a.ID); got.State != dspool.AppRunning || got.Port != 40002 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("what a machine may not say of apps counts for nothing", func(t *testing.T) {
		s := newRogues(t, strings.Replace(servertest.Config, "policy: {", "policy: {sessions_per_machine: 1, ", 1))
		a, b := wants(t, s.As("ada"), notebook), wants(t, s.As("bob"), notebook)
		one, two := s.hand("batch-1"), s.hand("batch-2")
		// The machines are given to ada and bob in either order.
		s.Until("batch-1 has somebody's session", func() bool {
			d, _ := one.directives()
			if len(d.Sessions) > 0 && d.Sessions[0].User == "bob" {
				one, two = two, one
			}
			return len(d.Sessions) > 0
		})
		d := one.session("ada", "is wanted", func(api.SessionDirective) bool { return true })
		other := two.opens("bob")
		two.told("bob", b.ID)
		one.says(d.ID, running(a.ID, 40001))                                                         // in the report that opens the session
		if got := one.app(a.ID); got.State != dspool.AppRunning && got.State != dspool.AppStarting { // it may have begun at once
			t.Errorf("%+v", got)
		}
		for _, port := range []int{0, -1, 22, 1023, 65536, 1 << 30} {
			two.says(other.ID, running(b.ID, port))
		}
		one.says(d.ID, running(b.ID, 40001), running(999, 40001), running(-1, 40001), ended(b.ID, 0, ""))
		one.says(other.ID, running(b.ID, 40001))
		two.says(other.ID, api.AppReport{ID: b.ID, State: "x"}, api.AppReport{ID: b.ID, State: dspool.AppWaiting}, api.AppReport{ID: b.ID, State: dspool.AppStopping, Port: 40001})
		if got := one.app(b.ID); got.State != dspool.AppStarting || got.Port != 0 {
			t.Errorf("%+v", got)
		}
		many := make([]api.AppReport, 1000)
		r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: d.ID, State: dspool.SessionOpen, Apps: many}}}
		if status := one.call("POST", "/agent/v1/reports", r, nil); status/100 != 4 {
			t.Errorf("a thousand apps: %d", status)
		}
		code := 4711
		two.says(other.ID, api.AppReport{ID: b.ID, State: dspool.AppEnded, ExitCode: &code, Reason: testkit.Stated(strings.Repeat("x", 1<<20))})
		if got := one.app(b.ID); got.ExitCode != nil || len(got.Reason.Text) > 600 {
			t.Errorf("exit code %v, %d bytes of words", got.ExitCode, len(got.Reason.Text))
		}
	})
}

func TestAppsEndWithTheirSession(t *testing.T) {
	t.Parallel()
	for claim, end := range map[string]struct {
		do     func(*rogues, *hand, api.SessionDirective)
		reason string
	}{
		"when it is closed": {func(s *rogues, h *hand, d api.SessionDirective) {
			if _, err := s.CloseSession(s.t.Context(), d.ID); err != nil {
				s.t.Fatal(err)
			}
			if a := h.session("ada", "is to end", func(d api.SessionDirective) bool { return d.Close }).Apps; len(a) != 0 {
				s.t.Errorf("its machine is told %+v", a)
			}
			r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: d.ID, State: dspool.SessionClosed}}}
			if status := h.call("POST", "/agent/v1/reports", r, nil); status != 204 {
				s.t.Errorf("report: %d", status)
			}
		}, "its session ends: closed by root"},
		"when its machine is lost": {func(s *rogues, _ *hand, _ api.SessionDirective) { s.Provider.Kill("batch-1") }, "its session ended: "},
		"when its user is removed": {func(s *rogues, h *hand, d api.SessionDirective) {
			if err := s.RemoveUser(s.t.Context(), "ada"); err != nil {
				s.t.Fatal(err)
			}
			r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: d.ID, State: dspool.SessionClosed}}}
			if status := h.call("POST", "/agent/v1/reports", r, nil); status != 204 {
				s.t.Errorf("report: %d", status)
			}
		}, "its session ends: user ada was removed"},
	} {
		t.Run(claim, func(t *testing.T) {
			s := newRogues(t, "")
			a := wants(t, s.As("ada"), notebook)
			h := s.hand("batch-1")
			d := h.opens("ada")
			h.told("ada", a.ID)
			h.says(d.ID, running(a.ID, 40001))
			end.do(s, h, d)
			s.Until("the app has ended", func() bool { return h.app(a.ID).State == dspool.AppEnded })
			if got := h.app(a.ID); !strings.HasPrefix(got.Reason.Text, end.reason) {
				t.Errorf("it ended because %q", got.Reason)
			}
			if n := len(s.targets()); n != 0 {
				t.Errorf("%d apps are still reached", n)
			}
		})
	}
	t.Run("one that waited ends when nobody waits any more, and takes no machine", func(t *testing.T) {
		s := newRogues(t, "")
		gate := s.Steps.Hold(servertest.Create)
		ada := s.As("ada")
		a := wants(t, ada, notebook)
		s.MustReach(gate)
		stopped, err := ada.StopApp(t.Context(), a.ID)
		if err != nil || stopped.State != dspool.AppEnded {
			t.Errorf("%+v, %v", stopped, err)
		}
		s.Until("its session is closed", func() bool {
			d, err := s.Session(t.Context(), a.Session)
			return err == nil && d.State == dspool.SessionClosed
		})
		gate.Open()
	})
	t.Run("the next waits until the session before has ended", func(t *testing.T) {
		s := newRogues(t, "")
		ada := s.As("ada")
		a := wants(t, ada, notebook)
		h := s.hand("batch-1")
		d := h.opens("ada")
		if _, err := s.CloseSession(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
		next := make(chan dspool.App)
		go func() {
			b, err := ada.WantApp(t.Context(), notebook)
			if err != nil {
				t.Error(err)
			}
			next <- b
		}()
		h.session("ada", "is to end", func(d api.SessionDirective) bool { return d.Close })
		s.Moment()
		r := api.Report{Health: dspool.Healthy, Sessions: []api.SessionReport{{ID: d.ID, State: dspool.SessionClosed}}}
		if status := h.call("POST", "/agent/v1/reports", r, nil); status != 204 {
			t.Errorf("report: %d", status)
		}
		if b := <-next; b.Session == a.Session || b.State != dspool.AppWaiting {
			t.Errorf("%+v", b)
		}
	})
}

func TestAppsOutliveTheServer(t *testing.T) {
	s := newRogues(t, "")
	kill := func() {
		s.Kill()
		s.Start()
	}
	a := wants(t, s.As("ada"), notebook)
	kill()
	h := s.hand("batch-1")
	kill()
	d := h.opens("ada")
	kill()
	h.told("ada", a.ID)
	kill()
	h.says(d.ID, running(a.ID, 40001))
	kill()
	if n := len(s.targets()); n != 1 || h.app(a.ID).State != dspool.AppRunning {
		t.Errorf("%d apps are reached; %+v", n, h.app(a.ID))
	}
	h.told("ada", a.ID)
	b := wants(t, s.As("ada"), notebook)
	kill()
	h.told("ada")
	h.says(d.ID, ended(a.ID, 0, ""))
	kill()
	h.told("ada", b.ID)
	h.says(d.ID, running(b.ID, 40002))
	if _, err := s.StopApp(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	kill()
	h.told("ada")
	h.says(d.ID, ended(b.ID, 0, ""))
	kill()
	for id, reason := range map[int64]string{a.ID: "another was started in its place", b.ID: "stopped by root"} {
		if got := h.app(id); got.State != dspool.AppEnded || got.Reason.Text != reason {
			t.Errorf("%+v", got)
		}
	}
	if n := len(s.EventsOf("app.ended")); n != 2 {
		t.Errorf("%d ends of two apps", n)
	}
}
