package agent_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/testkit"
)

// jupyterScript is a Jupyter server as far as the agent and users see it: it says of its kernel what
// the file "busy" in the home says, and its kernel is a process of its own session.
const jupyterScript = `
import http.server, json, os, pathlib, signal, subprocess, sys
kernel = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", "/run/kernel-4c5a2b6e-8f0d-4a57-9a36-1c3a5d0f7b21.json"], start_new_session=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/user/alice/api/kernels") and self.headers["Authorization"] != "token " + os.environ["JUPYTERHUB_API_TOKEN"]:
            return self.send_error(403)
        self.send_response(200)
        self.end_headers()
        if self.path.startswith("/user/alice/api/kernels"):
            busy = (pathlib.Path.home() / "busy").exists()
            self.wfile.write(json.dumps([{"id": "k", "execution_state": "busy" if busy else "idle"}]).encode())
        else:
            self.wfile.write(b"hello from %d in %s" % (os.getuid(), os.getcwd().encode()))
    def log_message(self, *args): pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
`

// get asks a port of the machine.
func (m *realMachine) get(port int, path string) (string, error) {
	conn, err := m.dial(port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// inside is a path of the machine as the host sees it.
func (m *realMachine) inside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(m.cmd.Process.Pid), "root", path)
}

func (m *realMachine) pidOf(prefix string) int {
	m.t.Helper()
	pids := m.find(prefix)
	if len(pids) != 1 {
		m.t.Fatalf("processes of %q: %v", prefix, pids)
	}
	return pids[0]
}

func ownerOf(t testing.TB, pid int) int {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	must(t, err)
	return int(info.Sys().(*syscall.Stat_t).Uid)
}

// Real apps that a real init runs, told by a real agent. Its parts tell one story and follow each other.
func TestRealApps(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.sshTrust = newAuthority(t).line()
	m := startRealMachine(t, s, map[string]int{"alice": 20001, "bob": 20002})
	s.await("the machine enrolled", func() bool { return s.enrolments > 0 })
	alice, bob := directive(1, "alice", 20001), directive(2, "bob", 20002)
	const secret = "a-secret-of-alices-server"
	jupyter := api.AppDirective{
		ID: 11, Name: "jupyter", Command: []string{"python3", "-c", jupyterScript, "{port}"}, Kernels: "/user/alice/api", Token: secret,
		Env: map[string]string{"JUPYTERHUB_API_TOKEN": secret},
	}
	s.seat(withApps(alice, jupyter))
	var port, main int
	t.Run("an app is running when its user listens on its port", func(t *testing.T) {
		r := s.app(1, 11, "running", running)
		port, main = r.Port, m.pidOf("python3 -c \nimport http")
		if got, err := m.get(port, "/"); err != nil || got != "hello from 20001 in /home/alice" {
			t.Errorf("%q, %v", got, err)
		}
		if uid := ownerOf(t, main); uid != 20001 {
			t.Errorf("it runs as %d", uid)
		}
		if text, _ := os.ReadFile(m.inside("home/alice/.local/state/dspool/jupyter.log")); string(text) != "serving\n" {
			t.Errorf("its log holds %q", text)
		}
	})
	t.Run("its secret is in its own environment only", func(t *testing.T) {
		for _, pid := range m.find("") {
			for _, f := range []string{"cmdline", "environ"} {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, f))
				if bytes.Contains(text, []byte(secret)) && (f == "cmdline" || ownerOf(t, pid) != 20001) {
					t.Errorf("it is in %s of process %d", f, pid)
				}
			}
		}
		if strings.Contains(m.log.String(), secret) {
			t.Error("it is in the machine's log")
		}
		err := filepath.WalkDir(m.inside("run"), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if text, _ := os.ReadFile(path); bytes.Contains(text, []byte(secret)) {
				t.Errorf("it is in %s", path)
			}
			return nil
		})
		must(t, err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if text, _ := json.Marshal(s.reports); bytes.Contains(text, []byte(secret)) {
			t.Error("it is in a report")
		}
	})
	t.Run("an idle server with an idle kernel is no activity, a cell that sleeps is", func(t *testing.T) {
		s.session(1, "idle", func(r api.SessionReport) bool { return !r.Active && testkit.Text(r.Activity) == "nothing runs" })
		must(t, os.WriteFile(m.inside("home/alice/busy"), nil, 0o644))
		s.session(1, "a cell", func(r api.SessionReport) bool {
			return r.Active && testkit.Text(r.Activity) == "a kernel of jupyter runs a cell"
		})
		must(t, os.Remove(m.inside("home/alice/busy")))
		s.session(1, "idle again", func(r api.SessionReport) bool { return !r.Active })
	})
	t.Run("killing the agent kills no app, and the next one knows it", func(t *testing.T) {
		old, err := os.ReadFile(filepath.Join(m.dir, "agent.pid"))
		must(t, err)
		must(t, syscall.Kill(m.pidOf("/proc/self/exe"), syscall.SIGKILL))
		s.mu.Lock()
		clear(s.sessions)
		s.mu.Unlock()
		m.await("a new agent", func() bool {
			pid, _ := os.ReadFile(filepath.Join(m.dir, "agent.pid"))
			return len(pid) > 0 && !bytes.Equal(pid, old)
		})
		if r := s.app(1, 11, "running", running); r.Port != port {
			t.Errorf("%+v", r)
		}
		if pid := m.pidOf("python3 -c \nimport http"); pid != main {
			t.Errorf("it was started again: %d, %d", pid, main)
		}
	})
	t.Run("one that is not named any more is ended with what it set apart", func(t *testing.T) {
		s.seat(alice)
		if r := s.appEnded(11); testkit.Text(r.Reason) != "it was stopped" {
			t.Errorf("%+v", r)
		}
		if left := m.find("python3"); len(left) > 0 {
			t.Errorf("%v live on", left)
		}
		if left := m.find("/usr/bin/python3"); len(left) > 0 {
			t.Errorf("%v live on", left)
		}
	})
	t.Run("a deaf one is ended as well", func(t *testing.T) {
		s.seat(withApps(alice, api.AppDirective{ID: 12, Name: "deaf", Command: []string{"sh", "-c", `
			trap '' TERM HUP; setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' & exec python3 -m http.server {port}`}}))
		s.app(1, 12, "running", running)
		s.seat(alice)
		s.appEnded(12)
		if left := m.find("sh -c trap"); len(left) > 0 {
			t.Errorf("%v live on", left)
		}
	})
	t.Run("a port that another user took is not used", func(t *testing.T) {
		s.seat(withApps(alice, api.AppDirective{ID: 13, Name: "slow", Command: []string{"sh", "-c", "umask 022; echo {port} >/tmp/port; exec sleep 1000"}}))
		s.app(1, 13, "starting", func(r api.AppReport) bool { return r.State == dspool.AppStarting })
		s.seat(withApps(bob, api.AppDirective{ID: 21, Name: "thief", Command: []string{"sh", "-c", `
			until [ -s /tmp/port ]; do sleep 0.01; done; exec python3 -m http.server $(cat /tmp/port)`}}))
		if r := s.appEnded(13); !strings.HasPrefix(testkit.Text(r.Reason), "somebody else's process (user id 20002) listens on its port ") {
			t.Errorf("%+v", r)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.reports {
			for _, x := range r.Sessions {
				for _, a := range x.Apps {
					if a.ID == 13 && (a.State == dspool.AppRunning || a.Port != 0) {
						t.Errorf("it was reported %+v", a)
					}
				}
			}
		}
	})
	t.Run("one that ends by itself leaves its last words", func(t *testing.T) {
		s.seat(withApps(alice, api.AppDirective{ID: 14, Name: "broken", Command: []string{"python3", "-c", "import sys; print('starting'); sys.exit('no such luck')"}}))
		if r := s.appEnded(14); !strings.HasPrefix(testkit.Text(r.Reason), "exit code 1: ") || !strings.Contains(testkit.Text(r.Reason), "no such luck") || *r.ExitCode != 1 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("one that has no memory left says so", func(t *testing.T) {
		s.seat(withApps(alice, api.AppDirective{ID: 15, Name: "eater", Command: []string{"tail", "/dev/zero"}}))
		if r := s.appEnded(15); testkit.Text(r.Reason) != "out of memory (limit 128 MiB)" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("one that is to run always comes back, on a port of its own", func(t *testing.T) {
		s.seat(withApps(alice, api.AppDirective{ID: 16, Name: "hub", Restart: true, Command: []string{"python3", "-m", "http.server", "{port}"}}))
		r := s.app(1, 16, "running", running)
		hub := m.pidOf("python3 -m http.server " + strconv.Itoa(r.Port))
		must(t, syscall.Kill(hub, syscall.SIGKILL))
		again := s.app(1, 16, "running again", func(r api.AppReport) bool {
			pids := m.find("python3 -m http.server " + strconv.Itoa(r.Port))
			return running(r) && len(pids) == 1 && pids[0] != hub
		})
		if _, err := m.get(again.Port, "/"); err != nil {
			t.Error(err)
		}
	})
	t.Run("the end of the session is the end of its apps", func(t *testing.T) {
		s.seat(closing(alice))
		s.closed(1)
		if r := s.appEnded(16); !strings.HasPrefix(testkit.Text(r.Reason), "its session ended") && !strings.HasPrefix(testkit.Text(r.Reason), "the session ended") {
			t.Errorf("%+v", r)
		}
		if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.cgroup + "/dspool-slot-user-20001-*"); len(dirs) > 0 {
			t.Errorf("cgroups left: %v", dirs)
		}
		if list := m.find("python3 -m http.server"); len(list) != 1 { // bob's
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Errorf("bob's app lives in %v, and is reported %+v", list, s.sessions[2])
		}
	})
}
