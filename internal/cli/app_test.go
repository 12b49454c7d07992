package cli_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// notebooks answers about one app, which ends a moment after it is stopped.
func notebooks(w http.ResponseWriter, r *http.Request) {
	code := 3
	a := dspool.App{ID: 7, Name: "jupyter", User: "ada", Pool: "lab", Session: 4, Machine: "lab-1", State: dspool.AppRunning, Port: 40001}
	switch p := strings.TrimPrefix(r.URL.Path, "/api/v1"); {
	case r.Method == "DELETE" && p == "/apps/7":
		a.State = dspool.AppStopping
		reply(w, a)
	case r.Method == "DELETE" && p == "/apps/8":
		a.ID, a.State = 8, dspool.AppEnded
		reply(w, a)
	case p == "/apps/7/steps":
		fmt.Fprintln(w, `{"message":"ending jupyter"}`)
		fmt.Fprintln(w, `{"message":"jupyter has ended","failed":{"code":"unavailable","message":"jupyter has ended"}}`)
	case p == "/apps/7":
		reply(w, a)
	case p == "/apps" && r.URL.Query().Get("all") == "true":
		reply(w, api.List[dspool.App]{Items: []dspool.App{a, {ID: 6, Name: "jupyter", User: "bob", Pool: "lab", Session: 3, State: dspool.AppEnded, ExitCode: &code, Reason: told("no \x1b[2J such file")}}})
	case p == "/apps":
		reply(w, api.List[dspool.App]{Items: []dspool.App{}})
	default:
		http.NotFound(w, r)
	}
}

func TestApps(t *testing.T) {
	t.Parallel()
	t.Run("are listed, with why they ended", func(t *testing.T) {
		t.Parallel()
		p := start(t, notebooks)
		p.must(t, "app", "list", "--all", "-o", "csv")
		if got := p.out.String(); !strings.Contains(got, "7,jupyter,ada,lab,4,lab-1,running") || !strings.Contains(got, "6,jupyter,bob,lab,3,,ended") || !strings.Contains(got, "exit code 3: no ") || strings.Contains(got, "\x1b") {
			t.Errorf("%q", got)
		}
	})
	t.Run("none is said to be none", func(t *testing.T) {
		t.Parallel()
		p := start(t, notebooks)
		p.must(t, "app", "list")
		if !strings.Contains(p.err.String(), "no apps") {
			t.Errorf("%q", p.err.String())
		}
	})
	t.Run("one is explained", func(t *testing.T) {
		t.Parallel()
		p := start(t, notebooks)
		p.must(t, "app", "show", "7")
		if got := p.out.String(); !strings.Contains(got, "app 7\n") || !strings.Contains(got, "40001") {
			t.Errorf("%q", got)
		}
	})
	t.Run("stop waits until they have ended", func(t *testing.T) {
		t.Parallel()
		p := start(t, notebooks)
		p.must(t, "app", "stop", "7", "8")
		if got := p.err.String(); got != "app 7 (jupyter of ada) has ended\napp 8 (jupyter of ada) has ended\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("or does not", func(t *testing.T) {
		t.Parallel()
		p := start(t, notebooks)
		p.must(t, "app", "stop", "--no-wait", "7")
		if got := p.err.String(); got != "app 7 (jupyter of ada) is being ended\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("what is no number is refused", func(t *testing.T) {
		t.Parallel()
		p := start(t, notebooks)
		p.refused(t, "is no app's number", "app", "show", "jupyter")
	})
}
