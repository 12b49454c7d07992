package host_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/testkit"
)

func (b *bench) app(t *testing.T) (host.App, []initd.AppEnd) {
	t.Helper()
	b.init.mu.Lock()
	b.init.ends = nil
	b.init.mu.Unlock()
	list, _, err := b.Apps(t.Context(), 0, 0)
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	return list[0], b.init.ends
}

func TestOpenRunsApps(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	must(t, b.Trust(t.Context(), authority(t)))
	d := b.directive()
	d.Apps = []api.AppDirective{{
		ID: 7, Name: "jupyter", Command: []string{"jupyterhub-singleuser"}, Env: map[string]string{"A": "{port}"}, Dir: "work", Restart: true,
		Kernels: "/user/alice/api", Token: "secret",
	}}
	must(t, b.Open(t.Context(), d))
	w := b.init.wanted
	if len(w) != 1 || w[0].Session != 1 || w[0].Grace != 10*time.Second || len(w[0].Apps) != 1 || w[0].Apps[0].Token != "secret" || w[0].Apps[0].Env["A"] != "{port}" {
		t.Errorf("%+v", w)
	}
	t.Run("also when the home of an open session is gone", func(t *testing.T) {
		must(t, os.Rename(b.home, b.home+".away"))
		if err := b.Open(t.Context(), d); err == nil || !strings.Contains(err.Error(), "is not on the machine") {
			t.Errorf("%v", err)
		}
		if len(b.init.wanted) != 2 {
			t.Errorf("%+v", b.init.wanted)
		}
	})
	t.Run("but a session whose home was never there is not opened for them", func(t *testing.T) {
		d.ID = 2
		if err := b.Open(t.Context(), d); err == nil || len(b.init.wanted) != 2 {
			t.Errorf("%v, %+v", err, b.init.wanted)
		}
	})
}

func TestImageWithoutSSH(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	must(t, os.Remove(b.cfg.Sshd))
	must(t, b.Trust(t.Context(), authority(t)))
	d := b.directive()
	if err := b.Open(t.Context(), d); err == nil || !strings.Contains(err.Error(), "the machine's image has no sshd") {
		t.Errorf("a session for logins: %v", err)
	}
	d.Apps = []api.AppDirective{{ID: 7, Name: "hub", Command: []string{"jupyterhub"}}}
	must(t, b.Open(t.Context(), d))
	d.Apps = nil // its app is to end
	must(t, b.Open(t.Context(), d))
	if len(b.init.wanted) != 2 || len(b.init.wanted[1].Apps) != 0 {
		t.Errorf("%+v", b.init.wanted)
	}
	must(t, b.Close(t.Context(), d))
}

func TestAppsStand(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	code := func(n int) *int { return &n }
	for _, c := range []struct {
		claim  string
		status initd.AppStatus
		state  dspool.AppState
		reason string
	}{
		{"one that waits is starting", initd.AppStatus{State: initd.Starting}, dspool.AppStarting, ""},
		{"one between two runs is starting", initd.AppStatus{State: initd.Starting, Run: 2, ExitCode: code(3), Said: "no such luck"}, dspool.AppStarting, "exit code 3: no such luck; it is started again"},
		{"one that nobody hears is starting", initd.AppStatus{State: initd.Running, Run: 1, Port: 1}, dspool.AppStarting, ""},
		{"an exit code is told with the last words", initd.AppStatus{State: initd.Ended, ExitCode: code(1), Said: "Traceback:\n\x1b[31m  KeyError\x1b[0m:\t'x'\x07\r\n"}, dspool.AppEnded, "exit code 1: Traceback: KeyError: 'x'"},
		{"only the end of much is told", initd.AppStatus{State: initd.Ended, ExitCode: code(1), Said: strings.Repeat("é", 1000)}, dspool.AppEnded, "exit code 1: …" + strings.Repeat("é", 200)},
		{"one that has nothing to say is told shortly", initd.AppStatus{State: initd.Ended, ExitCode: code(0)}, dspool.AppEnded, "exit code 0"},
		{"a signal is named", initd.AppStatus{State: initd.Ended, ExitCode: code(139), Signal: 11}, dspool.AppEnded, "ended by SIGSEGV"},
		{"out of memory is told with the limit", initd.AppStatus{State: initd.Ended, ExitCode: code(137), Signal: 9, OOM: true, Memory: 1 << 30}, dspool.AppEnded, "out of memory (limit 1 GiB)"},
		{"one that was stopped needs no words", initd.AppStatus{State: initd.Ended, ExitCode: code(143), Signal: 15, Reason: dspool.Reason{Code: dspool.WhyAppUnwanted}, Said: "bye"}, dspool.AppEnded, "it was stopped"},
		{"one that could not start says why", initd.AppStatus{State: initd.Ended, Fault: testkit.Stated("command \"x\" does not exist on the machine"), ExitCode: code(127)}, dspool.AppEnded, "command \"x\" does not exist on the machine"},
		{"what the kernel does not end is told", initd.AppStatus{State: initd.Ended, Reason: dspool.Reason{Code: dspool.WhyAppUnwanted}, Stuck: 2}, dspool.AppEnded, "it was stopped; the kernel does not end 2 of its processes"},
	} {
		c.status.ID, c.status.UID, c.status.Session = 7, b.uid, 4
		b.init.apps = []initd.AppStatus{c.status}
		a, ends := b.app(t)
		if a.State != c.state || testkit.Text(a.Reason) != c.reason || a.Session != 4 || a.ID != 7 || a.Port != 0 || len(ends) != 0 {
			t.Errorf("%s: %+v, %+v", c.claim, a, ends)
		}
		if ended := c.state == dspool.AppEnded; ended != (a.ExitCode != nil) && c.status.ExitCode != nil {
			t.Errorf("%s: exit code %v", c.claim, a.ExitCode)
		}
	}
	b.init.fault = errors.New("connection refused")
	if _, _, err := b.Apps(t.Context(), 0, 0); !errors.Is(err, host.ErrAway) {
		t.Errorf("init's silence: %v", err)
	}
}

func TestPortOfApp(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	l, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	set := func(uid, port, run int) {
		b.init.apps = []initd.AppStatus{{ID: 7, State: initd.Running, Run: run, UID: uid, Port: port, PID: 1}}
	}
	t.Run("is used when the user listens there", func(t *testing.T) {
		set(os.Getuid(), port, 1)
		if a, ends := b.app(t); a.State != dspool.AppRunning || a.Port != port || len(ends) != 0 {
			t.Errorf("%+v, %+v", a, ends)
		}
	})
	t.Run("is not when somebody else does, and the app is ended", func(t *testing.T) {
		set(b.uid, port, 2)
		a, ends := b.app(t)
		if a.State != dspool.AppStarting || a.Port != 0 || len(ends) != 1 || ends[0].ID != 7 || ends[0].Run != 2 || !strings.HasPrefix(testkit.Text(ends[0].Reason), "somebody else's process (user id 0) listens on its port") {
			t.Errorf("%+v, %+v", a, ends)
		}
	})
	t.Run("is not when it is a loopback address's only, which is told", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		set(os.Getuid(), l.Addr().(*net.TCPAddr).Port, 3)
		if a, ends := b.app(t); a.State != dspool.AppStarting || !strings.Contains(testkit.Text(a.Reason), "loopback address only") || len(ends) != 0 {
			t.Errorf("%+v, %+v", a, ends)
		}
	})
	t.Run("is not any more when the user has closed it", func(t *testing.T) {
		set(os.Getuid(), port, 4)
		b.app(t)
		l.Close()
		if a, _ := b.app(t); a.State != dspool.AppStarting || a.Port != 0 {
			t.Errorf("%+v", a)
		}
	})
}

func TestAppThatNeverListens(t *testing.T) {
	b := newBench(t, "10.0p1")
	synctest.Test(t, func(t *testing.T) {
		b.init.apps = []initd.AppStatus{{ID: 7, State: initd.Running, Run: 1, UID: b.uid, Port: 1, PID: 1, Said: "still thinking"}}
		if a, ends := b.app(t); a.State != dspool.AppStarting || len(ends) != 0 {
			t.Errorf("%+v, %+v", a, ends)
		}
		time.Sleep(4 * time.Minute)
		if _, ends := b.app(t); len(ends) != 0 {
			t.Errorf("%+v", ends)
		}
		time.Sleep(time.Minute + time.Second)
		if _, ends := b.app(t); len(ends) != 1 || testkit.Text(ends[0].Reason) != "nothing listened on its port 1 for 5m" {
			t.Errorf("%+v", ends)
		}
		b.init.apps[0].Run = 2 // the next run has its own time
		if _, ends := b.app(t); len(ends) != 0 {
			t.Errorf("%+v", ends)
		}
	})
}

// jupyter is a Jupyter server as far as its kernels are asked for.
type jupyter struct {
	*httptest.Server
	answer atomic.Value // a string, or an http.HandlerFunc
	asked  atomic.Int32
}

func newJupyter(t *testing.T) *jupyter {
	j := &jupyter{}
	j.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		j.asked.Add(1)
		if r.URL.Path != "/user/alice/api/kernels" || r.URL.RawQuery != "no_track_activity=1" || r.Header.Get("Authorization") != "token secret" {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		switch a := j.answer.Load().(type) {
		case string:
			_, _ = w.Write([]byte(a))
		case http.HandlerFunc:
			a(w, r)
		}
	}))
	t.Cleanup(j.Close)
	return j
}

func (j *jupyter) status(uid int) initd.AppStatus {
	return initd.AppStatus{
		ID: 7, Session: 1, Name: "jupyter", State: initd.Running, Run: 1, UID: uid, PID: 1 << 22, Kernels: "/user/alice/api", Token: "secret",
		Port: j.Listener.Addr().(*net.TCPAddr).Port,
	}
}

func TestKernelsAreAsked(t *testing.T) {
	t.Parallel()
	b, j := newBench(t, "10.0p1"), newJupyter(t)
	must(t, b.Trust(t.Context(), authority(t)))
	must(t, b.Open(t.Context(), b.directive()))
	j.answer.Store("[]")
	b.init.apps = []initd.AppStatus{j.status(os.Getuid())}
	seen := func(t *testing.T) host.Session {
		t.Helper()
		list, err := b.Sessions(t.Context())
		must(t, err)
		if len(list) != 1 {
			t.Fatalf("%+v", list)
		}
		return list[0]
	}
	for _, c := range []struct{ answer, activity string }{
		{`[]`, "nothing runs"},
		{`[{"id":"a","execution_state":"idle"},{"id":"b","execution_state":"busy"}]`, "a kernel of jupyter runs a cell"},
		{`[{"id":"a","execution_state":"idle"}]`, "nothing runs"},
		{`[{"id":"a","execution_state":"starting"}]`, "nothing runs"},
	} {
		j.answer.Store(c.answer)
		if s := seen(t); testkit.Text(s.Activity) != c.activity || s.Active != (c.activity != "nothing runs") {
			t.Errorf("%s: %+v", c.answer, s)
		}
	}
	t.Run("and nothing else is believed", func(t *testing.T) {
		elsewhere := newJupyter(t)
		for claim, a := range map[string]any{
			"no list":            `{"execution_state":"busy"}`,
			"a page":             "<html>busy",
			"an answer too long": `[{"id":"` + strings.Repeat("x", 2<<20) + `","execution_state":"busy"}]`,
			"a redirect": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+r.URL.String(), http.StatusFound)
			}),
			"an error": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_ = json.NewEncoder(w).Encode([]map[string]string{{"execution_state": "busy"}})
			}),
		} {
			j.answer.Store("[]")
			seen(t)
			if c, ok := a.(string); ok {
				j.answer.Store(c)
			} else {
				j.answer = atomic.Value{}
				j.answer.Store(a)
			}
			if s := seen(t); s.Active {
				t.Errorf("%s: %+v", claim, s)
			}
			j.answer = atomic.Value{}
		}
		if n := elsewhere.asked.Load(); n > 0 {
			t.Errorf("the token was carried elsewhere %d times", n)
		}
	})
	t.Run("and a token is given to nobody else", func(t *testing.T) {
		other := newJupyter(t)
		other.answer.Store(`[{"execution_state":"busy"}]`)
		b.init.apps = []initd.AppStatus{other.status(b.uid)} // whose port is root's
		if s := seen(t); s.Active || other.asked.Load() > 0 {
			t.Errorf("%+v, asked %d times", s, other.asked.Load())
		}
	})
}

// A server that hangs keeps its user's machine, but not for ever.
func TestSilentServer(t *testing.T) {
	b := newBench(t, "10.0p1")
	must(t, b.Trust(t.Context(), authority(t)))
	must(t, b.Open(t.Context(), b.directive()))
	kernel := exec.Command("/bin/sh", "-c", "read x", "/run/kernel-4c5a2b6e-8f0d-4a57-9a36-1c3a5d0f7b21.json")
	hold, err := kernel.StdinPipe()
	must(t, err)
	must(t, kernel.Start())
	defer func() { hold.Close(); _ = kernel.Wait() }()
	b.init.pids = []int{kernel.Process.Pid}
	synctest.Test(t, func(t *testing.T) {
		b.init.apps = []initd.AppStatus{{
			ID: 7, Session: 1, Name: "jupyter", State: initd.Running, Run: 1, UID: b.uid, PID: 1 << 22, PIDs: b.init.pids, Kernels: "/api", Port: 1,
		}}
		seen := func(want string) {
			t.Helper()
			list, err := b.Sessions(t.Context())
			must(t, err)
			if testkit.Text(list[0].Activity) != want || list[0].Active != (want != "nothing runs") {
				t.Errorf("%+v", list)
			}
		}
		seen("a kernel of jupyter may run a cell: its server does not answer")
		time.Sleep(9 * time.Minute)
		seen("a kernel of jupyter may run a cell: its server does not answer")
		time.Sleep(time.Minute + time.Second)
		seen("nothing runs")
		b.init.apps[0].Run = 2
		seen("a kernel of jupyter may run a cell: its server does not answer")
	})
}
