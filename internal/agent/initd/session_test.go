package initd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/initd"
)

func (m *testMachine) session(id int64, user string, uid int) initd.Session {
	return initd.Session{ID: id, Account: api.Account{User: user, UID: uid, GID: uid, Home: m.dir}, Request: dspool.Resources{CPUs: 1, Memory: 64 << 20}}
}

// enter has a process of the machine's root enter a session, as a login does, and run script.
func (m *testMachine) enter(st initd.SessionStatus, script string) {
	m.t.Helper()
	for _, f := range st.Join {
		script = "echo $$ >" + f + " || exit 1; " + script
	}
	must(m.t, m.Serve(m.t.Context(), initd.Service{Name: "login", Command: []string{"/bin/sh", "-c", script}}))
	m.t.Cleanup(func() { _ = m.Serve(m.t.Context(), initd.Service{Name: "login"}) })
}

func (m *testMachine) living(id int64) []int {
	m.t.Helper()
	list, err := m.Sessions(m.t.Context())
	must(m.t, err)
	for _, s := range list {
		if s.ID == id {
			return s.PIDs
		}
	}
	return nil
}

func TestSessions(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	alice := m.session(1, "alice", userID)
	alice.Groups = []api.GroupID{{Name: "lab", GID: 20500}}
	must(t, os.WriteFile(filepath.Join(m.dir, "etc/group"), []byte("root:x:0:\n"), 0o644))
	must(t, os.Chown(filepath.Join(m.dir, "etc/group"), machineRoot, machineRoot))
	st, err := m.Open(t.Context(), alice)
	must(t, err)
	for file, want := range map[string]string{
		"passwd": fmt.Sprintf("alice:*:%d:%d::%s:", userID, userID, m.dir),
		"group":  "lab:*:20500:alice\n",
	} {
		if text, err := os.ReadFile(filepath.Join(m.dir, "etc", file)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s, %v", file, text, err)
		}
	}
	if again, err := m.Open(t.Context(), alice); err != nil || fmt.Sprint(again) != fmt.Sprint(st) {
		t.Errorf("opened again: %+v, %v", again, err)
	}
	if _, err := m.Open(t.Context(), m.session(2, "alice", userID)); err == nil || !strings.Contains(err.Error(), "alice still has session 1") {
		t.Errorf("a second session of the user: %v", err)
	}
	if _, err := m.Open(t.Context(), m.session(1, "bob", userID+1)); err == nil {
		t.Error("another user's session with the same identifier")
	}
	// What ignores every signal that it can, and does not stop making children.
	m.enter(st, "trap '' TERM HUP INT; while :; do sleep 0.01; done")
	m.await("the process and its child in the session", func() bool { return len(m.living(1)) > 1 })
	begun := time.Now()
	must(t, m.Close(t.Context(), initd.Closing{ID: 1, Grace: 300 * time.Millisecond}))
	if took := time.Since(begun); took < 200*time.Millisecond {
		t.Errorf("the grace was cut to %v", took)
	}
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.name + "/dspool-slot-user-*"); len(dirs) > 0 {
		t.Errorf("left behind: %v", dirs)
	}
	must(t, m.Close(t.Context(), initd.Closing{ID: 1}))
	must(t, m.Close(t.Context(), initd.Closing{ID: 77}))
	_, err = m.Open(t.Context(), m.session(2, "alice", userID))
	must(t, err)
	if text, _ := os.ReadFile(filepath.Join(m.dir, "etc/group")); !strings.Contains(string(text), "lab:*:20500:\n") {
		t.Errorf("the user is still in a group: %s", text)
	}
}

func TestSessionsOfAttemptsUser(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	m.spawn(m.sh(1, "echo up; sleep 1000"))
	m.output(1, "up")
	st, err := m.Open(t.Context(), m.session(1, "alice", userID))
	must(t, err)
	m.enter(st, "exec sleep 1000")
	m.await("the login", func() bool { return len(m.living(1)) == 1 })
	must(t, m.Serve(t.Context(), initd.Service{Name: "login"}))
	must(t, m.Close(t.Context(), initd.Closing{ID: 1, Grace: time.Second}))
	list, err := m.List(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].State != initd.Running {
		t.Errorf("the attempt went with the session: %+v", list)
	}
}

func TestSessionRefusals(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	for want, change := range map[string]func(*initd.Session){
		"user name":                         func(s *initd.Session) { s.User = "../root" },
		"nobody works with an id below":     func(s *initd.Session) { s.UID = 0 },
		"group id 27":                       func(s *initd.Session) { s.GID = 27 },
		`gives id 20099 to "image"`:         func(s *initd.Session) { s.User, s.UID, s.GID = "dave", 20099, 20099 },
		"the image has its own image":       func(s *initd.Session) { s.User, s.UID, s.GID = "image", 20005, 20005 },
		"group name":                        func(s *initd.Session) { s.Groups = []api.GroupID{{Name: "a:b", GID: 20500}} },
		"nobody joins a group with an id":   func(s *initd.Session) { s.Groups = []api.GroupID{{Name: "disk", GID: 6}} },
		"asks for":                          func(s *initd.Session) { s.Request.Memory = 0 },
		"is not a path that an account can": func(s *initd.Session) { s.User, s.Home = "carol", "/home/a:0:0::/:/bin/sh\nx" },
	} {
		s := m.session(1, "alice", userID)
		change(&s)
		var err error
		m.await("the one before has gone", func() bool {
			_, err = m.Open(t.Context(), s)
			return err == nil || !strings.Contains(err.Error(), "is being closed")
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func (m *testMachine) service(name string) initd.ServiceStatus {
	list, err := m.Services(m.t.Context())
	must(m.t, err)
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	return initd.ServiceStatus{}
}

func TestServices(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	pids := filepath.Join(m.dir, "run/pids")
	lives := func() []string {
		text, _ := os.ReadFile(pids)
		return strings.Fields(string(text))
	}
	keep := initd.Service{Name: "keep", Command: []string{"/bin/sh", "-c", "echo $$ >>" + pids + "; exec sleep 1000"}, Version: "1"}
	must(t, m.Serve(t.Context(), keep))
	m.await("a first life", func() bool { return len(lives()) == 1 })
	must(t, m.Serve(t.Context(), keep)) // the same again is nothing new
	if sleeps := m.childrenOf(m.cmd.Process.Pid, "sleep"); len(sleeps) != 1 {
		t.Fatalf("sleeps %v", sleeps)
	}
	must(t, unix.Kill(m.childrenOf(m.cmd.Process.Pid, "sleep")[0], unix.SIGKILL))
	m.await("a second life", func() bool { return len(lives()) == 2 })
	keep.Version = "2"
	must(t, m.Serve(t.Context(), keep))
	m.await("a third life, of another version", func() bool { return len(lives()) == 3 && m.service("keep").PID != 0 })
	must(t, m.Serve(t.Context(), initd.Service{Name: "keep"}))
	m.await("its end", func() bool { return len(m.childrenOf(m.cmd.Process.Pid, "sleep")) == 0 })
	if s := m.service("keep"); s.Name != "" {
		t.Errorf("still there: %+v", s)
	}

	must(t, m.Serve(t.Context(), initd.Service{Name: "broken", Command: []string{"/bin/sh", "-c", "echo no such luck >&2; exit 3"}}))
	m.await("three failures", func() bool { return m.service("broken").Failures >= 3 })
	if s := m.service("broken"); !strings.HasSuffix(s.Said, "no such luck") {
		t.Errorf("%+v", s)
	}
	must(t, m.Serve(t.Context(), initd.Service{Name: "absent", Command: []string{"/no/such/program"}}))
	m.await("a failure", func() bool { return m.service("absent").Failures > 0 })
	for _, s := range []initd.Service{{Name: "Bad name", Command: []string{"/bin/true"}}, {Name: "relative", Command: []string{"true"}}} {
		if err := m.Serve(t.Context(), s); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
}
