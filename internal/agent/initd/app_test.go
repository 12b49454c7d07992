package initd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/testkit"
)

// bench is a machine with an open session of alice, who has a home.
type appBench struct {
	*testMachine
	home string
}

func newAppBench(t *testing.T) *appBench {
	t.Helper()
	m := startMachine(t)
	b := &appBench{m, filepath.Join(m.dir, "home")}
	must(t, os.Mkdir(b.home, 0o700))
	must(t, os.Chown(b.home, userID, userID))
	s := m.session(1, "alice", userID)
	s.Home, s.Groups = b.home, []api.GroupID{{Name: "lab", GID: 20500}}
	must(t, os.WriteFile(filepath.Join(m.dir, "etc/group"), []byte("root:x:0:\nvideo:x:44:alice\n"), 0o644))
	must(t, os.Chown(filepath.Join(m.dir, "etc/group"), machineRoot, machineRoot))
	_, err := m.Open(t.Context(), s)
	must(t, err)
	return b
}

func sh(id int64, name, script string) initd.App {
	return initd.App{ID: id, Name: name, Command: []string{"/bin/sh", "-c", script}}
}

func (b *appBench) want(apps ...initd.App) {
	b.t.Helper()
	must(b.t, b.WantApps(b.t.Context(), initd.Apps{Session: 1, Apps: apps, Grace: 300 * time.Millisecond}))
}

// app waits until an app is as ok says.
func (b *appBench) app(id int64, what string, ok func(initd.AppStatus) bool) (s initd.AppStatus) {
	b.t.Helper()
	late := time.Now().Add(waitLimit)
	for seen := int64(0); time.Now().Before(late); {
		list, version, err := b.Apps(b.t.Context(), seen, 50*time.Millisecond)
		must(b.t, err)
		seen = version
		for _, s = range list {
			if s.ID == id && ok(s) {
				return s
			}
		}
	}
	b.t.Fatalf("app %d: %s did not come true in %v: %+v; init said:\n%s", id, what, waitLimit, s, b.log.String())
	return s
}

func (b *appBench) ended(id int64) initd.AppStatus {
	b.t.Helper()
	return b.app(id, "ended", func(s initd.AppStatus) bool { return s.State == initd.Ended })
}

func (b *appBench) running(id int64) initd.AppStatus {
	b.t.Helper()
	return b.app(id, "running", func(s initd.AppStatus) bool { return s.State == initd.Running })
}

func (b *appBench) logOf(name string) string {
	text, _ := os.ReadFile(filepath.Join(b.home, initd.LogDir, name+".log"))
	return string(text)
}

func (b *appBench) logHolds(name, want string) string {
	b.t.Helper()
	b.await(fmt.Sprintf("%q in the log of %s", want, name), func() bool { return strings.Contains(b.logOf(name), want) })
	return b.logOf(name)
}

func TestAppIsTheUsers(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	must(t, os.WriteFile(filepath.Join(b.dir, "etc/environment"), []byte("# image\nexport IMAGE=\"of the lab\"\nPATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin\n"), 0o644))
	must(t, os.Mkdir(filepath.Join(b.home, "work"), 0o755))
	a := sh(1, "show", `id -u; id -g; id -G; pwd; ulimit -c; cat /proc/self/oom_score_adj; env; tr '\0' ' ' </proc/$$/cmdline; echo; cat /proc/self/cgroup; echo port {port}; echo done; exec sleep 1000`)
	a.Env = map[string]string{"PORT": "at {port}", "JUPYTERHUB_API_TOKEN": "very-secret-token", "LANG": "de_DE.UTF-8"}
	a.Dir = "work"
	b.want(a)
	st := b.running(1)
	text := b.logHolds("show", "\ndone\n")
	lines := strings.Split(text, "\n")
	if lines[0] != strconv.Itoa(userID) || lines[1] != strconv.Itoa(userID) || lines[2] != fmt.Sprintf("%d 20500 44", userID) && lines[2] != fmt.Sprintf("%d 44 20500", userID) {
		t.Errorf("it runs as %q", lines[:3])
	}
	if lines[3] != filepath.Join(b.home, "work") || lines[4] != "0" {
		t.Errorf("it runs in %q, core limit %s", lines[3], lines[4])
	}
	for _, want := range []string{
		"HOME=" + b.home, "USER=alice", "LOGNAME=alice", "SHELL=/bin/bash", "LANG=de_DE.UTF-8", "IMAGE=of the lab",
		"PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin", fmt.Sprintf("PORT=at %d", st.Port), fmt.Sprintf("port %d", st.Port),
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
	if st.Port < 1024 || st.PID == 0 || !slices.Contains(st.PIDs, st.PID) {
		t.Errorf("%+v", st)
	}
	b.await("its score", func() bool {
		pid := b.childrenOf(b.cmd.Process.Pid, "sleep")
		if len(pid) != 1 {
			return false
		}
		score, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid[0]))
		return strings.TrimSpace(string(score)) == "500"
	})
	info, err := os.Stat(filepath.Join(b.home, initd.LogDir, "show.log"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the log: %v", info.Mode())
	}
	for _, c := range []string{"memory", "cpu", "pids"} {
		if !strings.Contains(text, c+":") || !strings.Contains(text, "dspool-slot-user-20001-1\n") {
			t.Errorf("it is not in the session's cgroup:\n%s", text)
		}
	}
	// The secret is in the process's own environment, and nowhere else.
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, f := range cmdlines {
		if arg, _ := os.ReadFile(f); bytes.Contains(arg, []byte("very-secret-token")) {
			t.Errorf("the secret is in %s: %s", f, arg)
		}
	}
	if strings.Contains(b.log.String(), "very-secret-token") {
		t.Error("the secret is in init's log")
	}
	if list, err := b.Sessions(t.Context()); err != nil || !slices.Contains(list[0].PIDs, st.PID) {
		t.Errorf("the session does not list it: %+v, %v", list, err)
	}
}

func TestAppEndsWithItsTree(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	tree := `setsid sh -c 'trap "" TERM HUP; echo up; while :; do sleep 0.1; done' & sleep 1000 & `
	t.Run("when it is not wanted any more", func(t *testing.T) {
		b.want(sh(1, "server", tree+`trap 'echo bye; exit 0' TERM; wait; wait; sleep 1000`))
		b.logHolds("server", "up")
		b.want()
		if s := b.ended(1); !s.Reason.Is(dspool.WhyAppUnwanted) || s.ExitCode == nil || *s.ExitCode != 0 || s.Stuck != 0 {
			t.Errorf("%+v", s)
		}
		b.logHolds("server", "bye")
		b.nothingLives()
	})
	t.Run("when it is deaf", func(t *testing.T) {
		b.want(sh(2, "deaf", tree+`trap '' TERM; sh -c 'kill -STOP $$'; while :; do sleep 1; done`))
		b.logHolds("deaf", "up")
		b.want()
		if s := b.ended(2); s.Signal != int(unix.SIGKILL) || !s.Reason.Is(dspool.WhyAppUnwanted) {
			t.Errorf("%+v", s)
		}
		b.nothingLives()
	})
	t.Run("when it ends by itself, with its last words", func(t *testing.T) {
		a := sh(3, "server", tree+`sleep 0.1; echo the token is $APP_TOKEN; echo no such luck >&2; exit 5`)
		a.Env = map[string]string{"APP_TOKEN": "deep-secret"}
		b.want(a)
		s := b.ended(3)
		if *s.ExitCode != 5 || testkit.Text(s.Reason) != "" || s.Signal != 0 || !strings.HasSuffix(s.Said, "the token is …\nno such luck") {
			t.Errorf("%+v", s)
		}
		b.nothingLives()
	})
	t.Run("while the rest of the session lives on", func(t *testing.T) {
		b.want(sh(4, "one", "exec sleep 1001"), sh(5, "two", "exec sleep 1002"))
		b.running(4)
		b.running(5)
		b.want(sh(5, "two", ""))
		b.ended(4)
		if s := b.running(5); s.Run != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("with its session", func(t *testing.T) {
		b.want(sh(6, "three", tree+`trap '' TERM; while :; do sleep 1; done`))
		b.logHolds("three", "up")
		must(t, b.Close(t.Context(), initd.Closing{ID: 1, Grace: 200 * time.Millisecond}))
		b.nothingLives()
		if list, _, err := b.Apps(t.Context(), 0, 0); err != nil || len(list) != 0 {
			t.Errorf("%+v, %v", list, err)
		}
		if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + b.name + "/dspool-slot-user-*"); len(dirs) > 0 {
			t.Errorf("left behind: %v", dirs)
		}
	})
}

func TestAppsFollowEachOther(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	first, second := sh(1, "hub", `trap 'sleep 0.2; echo first gone >>$HOME/order; exit' TERM; while :; do sleep 0.01; done`), sh(2, "hub", `echo second >>$HOME/order; exec sleep 1000`)
	b.want(first)
	b.app(1, "running", func(s initd.AppStatus) bool { return s.State == initd.Running && len(s.PIDs) > 1 })
	b.want(second)
	b.running(2)
	b.await("both have written", func() bool {
		text, _ := os.ReadFile(filepath.Join(b.home, "order"))
		return string(text) == "first gone\nsecond\n"
	})
	b.want(second) // the same again is nothing new
	if s := b.running(2); s.Run != 1 {
		t.Errorf("%+v", s)
	}
	t.Run("what has ended is kept until it is forgotten", func(t *testing.T) {
		b.want(second, first)
		if s := b.ended(1); s.Run != 1 {
			t.Errorf("it ran again: %+v", s)
		}
		must(t, b.ForgetApps(t.Context(), []int64{1, 2}))
		list, _, err := b.Apps(t.Context(), 0, 0)
		must(t, err)
		if len(list) != 1 || list[0].ID != 2 {
			t.Errorf("%+v", list)
		}
	})
}

func TestAppIsStartedAgain(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	a := sh(1, "hub", `echo run >>$HOME/runs; echo only this run; sleep 0.05; exit 3`)
	a.Restart = true
	b.want(a)
	s := b.app(1, "third run", func(s initd.AppStatus) bool { return s.Run >= 3 && s.State == initd.Running })
	if s.ExitCode == nil || *s.ExitCode != 3 {
		t.Errorf("how it ended before is not known: %+v", s)
	}
	if text := b.logHolds("hub", "run"); strings.Count(text, "run") != 1 {
		t.Errorf("the log of an earlier run is kept: %s", text)
	}
	b.want()
	b.ended(1)
	t.Run("also when one run of it is ended", func(t *testing.T) {
		a := sh(2, "hub", "exec sleep 1000")
		a.Restart = true
		b.want(a)
		s := b.running(2)
		must(t, b.EndApp(t.Context(), initd.AppEnd{ID: 2, Run: s.Run, Reason: testkit.Stated("another listens"), Grace: time.Second}))
		next := b.app(2, "second run", func(s initd.AppStatus) bool { return s.Run == 2 && s.State == initd.Running })
		if testkit.Text(next.Reason) != "another listens" {
			t.Errorf("%+v", next)
		}
		// What is said of a run that is over ends no other.
		must(t, b.EndApp(t.Context(), initd.AppEnd{ID: 2, Run: 1, Reason: testkit.Stated("late"), Grace: time.Second}))
		if now := b.running(2); now.PID != next.PID {
			t.Errorf("%+v", now)
		}
		b.want()
		b.ended(2)
	})
	t.Run("also when it cannot be started", func(t *testing.T) {
		a := initd.App{ID: 3, Name: "hub", Command: []string{"no-such-program"}, Restart: true}
		b.want(a)
		b.app(3, "second try", func(s initd.AppStatus) bool {
			return s.Run >= 2 && strings.Contains(testkit.Text(s.Fault), "does not exist on the machine")
		})
		b.want()
		b.ended(3)
	})
}

func TestAppOutOfMemory(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	b.want(sh(1, "eater", "exec tail /dev/zero"))
	if s := b.ended(1); !s.OOM || s.Signal != int(unix.SIGKILL) || s.Memory != 64<<20 {
		t.Errorf("%+v", s)
	}
	b.want(sh(2, "modest", "exit 1"))
	if s := b.ended(2); s.OOM {
		t.Errorf("the next is blamed: %+v", s)
	}
}

func TestAppsThatCannotStart(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	must(t, os.Symlink("/etc", filepath.Join(b.home, "out")))
	must(t, os.Mkdir(filepath.Join(b.dir, "private"), 0o700)) // root's
	for i, c := range []struct {
		app  initd.App
		want string
	}{
		{initd.App{Name: "../x", Command: []string{"true"}}, "app name"},
		{initd.App{Name: "a"}, "no command"},
		{initd.App{Name: "a", Command: []string{"a\x00b"}}, "NUL"},
		{initd.App{Name: "a", Command: []string{"true"}, Env: map[string]string{"A=B": "hidden"}}, "an entry that a process cannot have"},
		{initd.App{Name: "a", Command: []string{"true"}, Env: map[string]string{"A": "hidden\x00"}}, "an entry that a process cannot have"},
		{initd.App{Name: "a", Command: []string{"no-such-program"}}, `command "no-such-program" does not exist`},
		{initd.App{Name: "a", Command: []string{"/etc/passwd"}}, "is not executable for the user"},
		{initd.App{Name: "a", Command: []string{"true"}, Dir: "nowhere"}, "cannot start in directory"},
		{initd.App{Name: "a", Command: []string{"true"}, Dir: "../private"}, "not below it"},
		{initd.App{Name: "a", Command: []string{"true"}, Dir: "/etc"}, "not below it"},
		{initd.App{Name: "a", Command: []string{"true"}, Dir: "out"}, "a link leads out of it"},
	} {
		c.app.ID = int64(i + 1)
		b.want(c.app)
		if s := b.ended(c.app.ID); !strings.Contains(testkit.Text(s.Fault), c.want) || strings.Contains(testkit.Text(s.Fault), "hidden") {
			t.Errorf("%+v: %q", c.app, testkit.Text(s.Fault))
		}
	}
	for want, session := range map[string]int64{"session 9 is not open": 9} {
		if err := b.WantApps(t.Context(), initd.Apps{Session: session}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

// Whatever a home is like, it keeps no app from running, and nothing is written where its user may not.
func TestAppLogs(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	logs := filepath.Join(b.home, initd.LogDir)
	victim := filepath.Join(b.dir, "run/victim")
	must(t, os.WriteFile(victim, []byte("root's"), 0o666))
	must(t, os.Chmod(victim, 0o666))
	must(t, os.MkdirAll(logs, 0o700))
	for _, dir := range []string{".local", ".local/state", initd.LogDir} {
		must(t, os.Chown(filepath.Join(b.home, dir), userID, userID))
	}
	id := int64(0)
	runs := func(t *testing.T) {
		t.Helper()
		id++
		b.want(sh(id, "server", "echo here I am; touch $HOME/ran || true; exit 4"))
		if s := b.ended(id); s.ExitCode == nil || *s.ExitCode != 4 || s.Said != "here I am" {
			t.Errorf("%+v", s)
		}
		if text, _ := os.ReadFile(victim); string(text) != "root's" {
			t.Errorf("another's file holds %q", text)
		}
	}
	log := filepath.Join(logs, "server.log")
	t.Run("are emptied at each start", func(t *testing.T) {
		runs(t)
		runs(t)
		if b.logOf("server") != "here I am\n" {
			t.Errorf("%q", b.logOf("server"))
		}
	})
	for claim, make := range map[string]func() error{
		"that are links are not followed":     func() error { return os.Symlink(victim, log) },
		"that are links to the end of a pipe": func() error { return os.Symlink("/proc/self/fd/1", log) },
		"that are hard links of another's":    func() error { return os.Link(victim, log) },
		"that are pipes hold nobody":          func() error { return unix.Mkfifo(log, 0o666) },
		"that are directories are left alone": func() error { return os.Mkdir(log, 0o777) },
	} {
		t.Run(claim, func(t *testing.T) {
			must(t, os.RemoveAll(log))
			must(t, make())
			runs(t)
		})
	}
	t.Run("in a directory that leads elsewhere are not written", func(t *testing.T) {
		must(t, os.RemoveAll(logs))
		must(t, os.Symlink(filepath.Join(b.dir, "run"), logs))
		runs(t)
		if _, err := os.Stat(filepath.Join(b.dir, "run/server.log")); err == nil {
			t.Error("a log was made outside the home")
		}
	})
	t.Run("are bounded, and say so", func(t *testing.T) {
		must(t, os.Remove(logs))
		b.want(sh(90, "talker", `head -c 11000000 /dev/zero | tr '\0' x; echo; echo the end; exec sleep 1000`))
		text := b.logHolds("talker", "the end")
		if len(text) > 10<<20 || !strings.HasPrefix(text, "[dspool] This file holds at most 10 MiB") {
			t.Errorf("%d bytes, beginning with %.80q", len(text), text)
		}
	})
	t.Run("need no home", func(t *testing.T) {
		b.want()
		b.ended(90)
		must(t, os.Rename(b.home, b.home+".away"))
		b.want(sh(91, "server", "pwd; exit 4"))
		if s := b.ended(91); *s.ExitCode != 4 || s.Said != "/" {
			t.Errorf("%+v", s)
		}
	})
}

// An app that nobody reads from is told of at once, and a wait ends when something happens.
func TestAppListWaits(t *testing.T) {
	t.Parallel()
	b := newAppBench(t)
	_, version, err := b.Apps(t.Context(), 0, 0)
	must(t, err)
	got := make(chan []initd.AppStatus, 1)
	go func() {
		list, _, _ := b.Apps(t.Context(), version, waitLimit)
		got <- list
	}()
	b.want(sh(1, "a", "exec sleep 1000"))
	select {
	case list := <-got:
		if len(list) != 1 {
			t.Errorf("%+v", list)
		}
		text, err := json.Marshal(list)
		must(t, err)
		if bytes.Contains(text, []byte("command")) || bytes.Contains(text, []byte("env")) {
			t.Errorf("a status carries what may be secret: %s", text)
		}
	case <-time.After(waitLimit):
		t.Fatal("the wait did not end")
	}
}
