package initd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/testkit"
)

func code(s initd.Status) string {
	if s.ExitCode == nil {
		return "none"
	}
	return strconv.Itoa(*s.ExitCode)
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	for i, c := range []struct {
		claim   string
		command []string
		code    string
		fault   string
	}{
		{"success is 0", []string{"true"}, "0", ""},
		{"an exit code is kept", []string{"/bin/sh", "-c", "exit 42"}, "42", ""},
		{"a signal is 128 more", []string{"/bin/sh", "-c", "kill -9 $$"}, "137", ""},
		{"a command that does not exist is 127", []string{"no-such-program"}, "127", `command "no-such-program" does not exist`},
		{"a path that does not exist is 127", []string{"/no/such/program"}, "127", `command "/no/such/program" does not exist`},
		{"a file that is no program is 126", []string{"/etc/passwd"}, "126", `is not executable for the user`},
		{"a directory is 126", []string{"/etc"}, "126", `is not executable for the user`},
	} {
		id := int64(i + 1)
		m.spawn(m.spec(id, c.command...))
		if s := m.exit(id); code(s) != c.code || !strings.Contains(testkit.Text(s.Fault), c.fault) || (c.fault == "") != (testkit.Text(s.Fault) == "") {
			t.Errorf("%s: %+v code %s", c.claim, s, code(s))
		}
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	m.spawn(m.sh(1, `trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done`))
	m.output(1, "up")
	must(t, m.Kill(t.Context(), initd.Kill{ID: 1, Cause: initd.Cancelled, Reason: testkit.Stated("asked"), Grace: 10 * time.Second}))
	if s := m.exit(1); code(s) != "3" || s.Cause != initd.Cancelled || testkit.Text(s.Reason) != "asked" {
		t.Errorf("%+v code %s", s, code(s))
	}
	m.output(1, "bye")
}

func TestKillTree(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	// A daemon that left the session, one that ignores SIGTERM, and one that is stopped.
	tree := `setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' &
		(trap "" TERM; sh -c 'kill -STOP $$') &
		sleep 1000 & `
	t.Run("cancel ends all of it", func(t *testing.T) {
		m.spawn(m.sh(1, tree+`wait`))
		m.output(1, "\n")
		must(t, m.Kill(t.Context(), initd.Kill{ID: 1, Cause: initd.Cancelled, Grace: 50 * time.Millisecond}))
		if s := m.exit(1); s.Cause != initd.Cancelled || s.Stuck != 0 || code(s) != "143" {
			t.Errorf("%+v code %s", s, code(s))
		}
		m.nothingLives()
	})
	t.Run("the end of the main process ends all of it", func(t *testing.T) {
		m.spawn(m.sh(2, tree+`sleep 0.1; exit 5`))
		if s := m.exit(2); code(s) != "5" || s.Stuck != 0 || s.Cause != "" {
			t.Errorf("%+v code %s", s, code(s))
		}
		m.nothingLives()
	})
	t.Run("a loop of forks does not outrun it", func(t *testing.T) {
		s := m.sh(3, `f() { f & f & }; echo up; f; wait`)
		m.spawn(s)
		m.output(3, "up")
		must(t, m.Kill(t.Context(), initd.Kill{ID: 3, Cause: initd.Cancelled}))
		if s := m.exit(3); s.Stuck != 0 {
			t.Errorf("%+v", s)
		}
		m.nothingLives()
	})
	t.Run("what saves its work within the grace is let do so", func(t *testing.T) {
		m.spawn(m.sh(4, `sh -c 'trap "sleep 0.2; echo saved; exit" TERM; echo up; while :; do sleep 0.01; done' & wait`))
		m.output(4, "up")
		must(t, m.Kill(t.Context(), initd.Kill{ID: 4, Cause: initd.Cancelled, Grace: waitLimit}))
		m.exit(4)
		m.output(4, "saved")
	})
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	eat := `head -c 200M /dev/zero | tail -c 150M >/dev/null`
	m.spawn(m.sh(1, eat+`; exit 9`))
	if s := m.exit(1); s.OOMKills != 1 || code(s) != "9" {
		t.Errorf("a child over the limit: %+v code %s", s, code(s))
	}
	m.spawn(m.sh(2, `exit 9`)) // in the same slot
	if s := m.exit(2); s.OOMKills != 0 {
		t.Errorf("the next in the slot is blamed: %+v", s)
	}
	m.spawn(m.sh(3, "exec tail /dev/zero"))
	if s := m.exit(3); s.OOMKills != 1 || code(s) != "137" {
		t.Errorf("the main process over the limit: %+v code %s", s, code(s))
	}
	more := m.sh(4, eat)
	more.Request.Memory = 400 << 20
	m.spawn(more)
	if s := m.exit(4); s.OOMKills != 0 || code(s) != "0" {
		t.Errorf("within a higher limit: %+v code %s", s, code(s))
	}
}

func TestMemoryKillsAreToldWhileItRuns(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	m.spawn(m.sh(1, `head -c 200M /dev/zero | tail -c 150M >/dev/null; echo goes on; until [ -e go ]; do sleep 0.05; done`))
	m.output(1, "goes on")
	m.await("the kill is told", func() bool { s := m.told(1); return s.OOMKills == 1 && s.State == initd.Running })
	must(t, os.WriteFile(filepath.Join(m.dir, "jobs/1/go"), nil, 0o644))
	if s := m.exit(1); s.OOMKills != 1 || code(s) != "0" {
		t.Errorf("at its end: %+v code %s", s, code(s))
	}
	m.spawn(m.sh(2, `true`)) // in the same slot
	if s := m.exit(2); s.OOMKills != 0 {
		t.Errorf("the next in the slot: %+v", s)
	}
}

func TestSurroundings(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	s := m.sh(1, `env | sort; echo "cwd $PWD umask $(umask) core $(ulimit -c)"
		until [ "$(cat /proc/$$/oom_score_adj)" = 500 ]; do :; done; echo oom 500 # it is set as the program begins
		id; grep -E '^(Groups|CapEff|NoNewPrivs|NSsid|NSpid)' /proc/self/status; readlink /proc/self/fd/0; ls /proc/self/fd; cat /proc/self/cgroup`)
	s.Env = map[string]string{"A": "b c", "DSPOOL_JOB_ID": "forged", "LANG": "de_DE.UTF-8"}
	m.spawn(s)
	m.exit(1)
	out := m.output(1, "NSpid")
	for _, want := range []string{
		"A=b c\n", "DSPOOL_JOB_ID=7\n", "DSPOOL_TASK_INDEX=1\n", "DSPOOL_TASK_COUNT=9\n", "DSPOOL_CPUS=1.5\n", "DSPOOL_MEMORY=67108864\n",
		"OMP_NUM_THREADS=2\n", "HOME=" + m.dir + "\n", "USER=alice\n", "LOGNAME=alice\n", "PATH=/usr/local/bin:/usr/bin:/bin\n", "LANG=de_DE.UTF-8\n", "PYTHONUNBUFFERED=1\n",
		"cwd " + s.Dir + " umask 0022 core 0\n", "oom 500\n", "uid=20001", "gid=20001", "CapEff:\t0000000000000000\n", "/dev/null\n", "dspool-slot-1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "INITD_TEST") {
		t.Error("init's environment leaks")
	}
	if !strings.Contains(out, "\n0\n1\n2\n3\n") || strings.Contains(out, "\n3\n4\n") {
		t.Errorf("files of init's leak:\n%s", out)
	}
	passwd, err := os.ReadFile(filepath.Join(m.dir, "etc/passwd"))
	must(t, err)
	group, err := os.ReadFile(filepath.Join(m.dir, "etc/group"))
	must(t, err)
	m.spawn(m.sh(2, "true"))
	again, err := os.ReadFile(filepath.Join(m.dir, "etc/passwd"))
	must(t, err)
	if !strings.HasSuffix(string(passwd), ":/bin/sh\nalice:*:20001:20001::"+m.dir+":"+m.dir+"/etc/dspool-shell\n") || string(group) != "alice:*:20001:\n" || !bytes.Equal(again, passwd) {
		t.Errorf("passwd:\n%s\ngroup:\n%s\npasswd later:\n%s", passwd, group, again)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	secret := filepath.Join(m.dir, "secret")
	must(t, os.WriteFile(secret, []byte("root's"), 0o600))
	must(t, os.Chown(secret, machineRoot, machineRoot))
	for i, c := range []struct {
		claim string
		fault string
		set   func(*initd.Spec)
	}{
		{"root", "nothing runs with an id below 20000", func(s *initd.Spec) { s.UID = 0 }},
		{"root's group", "nothing runs with an id below 20000", func(s *initd.Spec) { s.GID = 0 }},
		{"an id of the system's", "nothing runs with an id below 20000", func(s *initd.Spec) { s.UID = 19999 }},
		{"an id below zero", "nothing runs with an id below 20000", func(s *initd.Spec) { s.UID = -1 }},
		{"an account of the image's", "the image has its own root", func(s *initd.Spec) { s.User = "root" }},
		{"an id of the image's", `the image gives id 20099 to "image"`, func(s *initd.Spec) { s.User, s.UID = "carol", 20099 }},
		{"a name with a newline", "is not allowed", func(s *initd.Spec) { s.User = "x:*:0:0::/:\nroot" }},
		{"a home with a newline", "is not a path", func(s *initd.Spec) { s.User, s.UID, s.Home = "dora", 20004, "/h:\nr::0:0::/:" }},
		{"a directory that is root's", "permission denied", func(s *initd.Spec) { s.Dir = "/root/x" }},
		{"no command", "no command", func(s *initd.Spec) { s.Command = nil }},
		{"a NUL", "NUL", func(s *initd.Spec) { s.Command = []string{"a\x00b"} }},
		{"stdout.txt that is a link to a file of root's", "link", func(s *initd.Spec) {
			must(t, os.Mkdir(s.Dir, 0o755))
			must(t, os.Symlink(secret, filepath.Join(s.Dir, "stdout.txt")))
			must(t, os.Chown(s.Dir, userID, userID))
		}},
		{"stderr.txt that is a FIFO", "not a regular file", func(s *initd.Spec) {
			must(t, os.Mkdir(s.Dir, 0o755))
			must(t, unix.Mkfifo(filepath.Join(s.Dir, "stderr.txt"), 0o666))
			must(t, os.Chown(filepath.Join(s.Dir, "stderr.txt"), userID, userID))
			must(t, os.Chown(s.Dir, userID, userID))
		}},
		{"a directory behind a link", "link", func(s *initd.Spec) {
			must(t, os.Symlink("/tmp", s.Dir))
			s.Dir = filepath.Join(s.Dir, "x")
		}},
	} {
		s := m.spec(int64(i+1), "true")
		c.set(&s)
		st := m.spawn(s)
		if st.State != initd.Ended || !strings.Contains(testkit.Text(st.Fault), c.fault) || st.Started != nil || strings.Contains(testkit.Text(st.Fault), "\n") {
			t.Errorf("%s: %+v", c.claim, st)
		}
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "root's" {
		t.Errorf("root's file: %q, %v", b, err)
	}
	t.Run("a user of the machine may not talk to init", func(t *testing.T) {
		for _, d := range []string{"run", "run/" + initd.SocketName} {
			must(t, os.Chmod(filepath.Join(m.dir, d), 0o777)) // even if the modes were wrong
		}
		for _, uid := range []int{userID, 0 /* of the host, unknown to the machine */} {
			conn, err := m.dialAs(uid)
			must(t, err)
			defer conn.Close()
			_, _ = conn.Write([]byte(`{"id":1,"op":"list"}` + "\n"))
			must(t, conn.SetReadDeadline(time.Now().Add(waitLimit)))
			if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("host id %d was answered: %d bytes, %v", uid, n, err)
			}
		}
	})
}

func TestTable(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	m.spawn(m.sh(1, `echo once; exit 3`))
	m.exit(1)
	if st := m.spawn(m.sh(1, `echo twice`)); st.State != initd.Ended || code(st) != "3" {
		t.Errorf("spawned again: %+v", st)
	}
	m.spawn(m.sh(2, "exec sleep 1000"))
	must(t, m.Forget(t.Context(), []int64{1, 2, 99}))
	list, err := m.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != 2 || list[0].State != initd.Running {
		t.Errorf("after forgetting: %+v, %v", list, err)
	}
	must(t, m.Kill(t.Context(), initd.Kill{ID: 99}))
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan initd.Status, 10)
	go func() { _ = m.Exits(ctx, func(s initd.Status) { told <- s }) }()
	must(t, m.Kill(t.Context(), initd.Kill{ID: 2, Cause: initd.OverTime}))
	if s := <-told; s.ID != 2 || s.Cause != initd.OverTime || s.Signal != 9 {
		t.Errorf("%+v", s)
	}
	cancel()
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = m.Exits(ctx, func(s initd.Status) { told <- s }) }()
	if s := <-told; s.ID != 2 {
		t.Errorf("a new stream begins with %+v", s)
	}
}

func TestAgentIsKept(t *testing.T) {
	t.Parallel()
	m := startMachine(t, "INITD_TEST_AGENT=1")
	lives := func() int {
		text, _ := os.ReadFile(filepath.Join(m.dir, "agents"))
		return strings.Count(string(text), "\n")
	}
	m.await("an agent", func() bool { return lives() == 1 })
	m.spawn(m.sh(1, `echo up; sleep 0.5; exit 6`))
	m.output(1, "up")
	for life := 1; life < 4; life++ {
		pids := m.childrenOf(m.cmd.Process.Pid, "/proc/self/exe")
		if len(pids) != 1 {
			t.Fatalf("agents of init: %v", pids)
		}
		must(t, unix.Kill(pids[0], unix.SIGKILL))
		m.await("another agent", func() bool { return lives() == life+1 })
	}
	if s := m.exit(1); code(s) != "6" {
		t.Errorf("the attempt ended with the agent: %+v", s)
	}
}

func TestOrderlyEnd(t *testing.T) {
	t.Parallel()
	m := startMachine(t, "INITD_TEST_AGENT=1")
	m.spawn(m.sh(1, `trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.01; done`))
	m.spawn(m.sh(2, `trap '' TERM; echo up; while :; do sleep 0.01; done`))
	m.output(1, "up")
	m.output(2, "up")
	must(t, m.cmd.Process.Signal(unix.SIGTERM))
	done := make(chan error)
	go func() { done <- m.cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("init ended with %v", err)
		}
	case <-time.After(waitLimit):
		t.Fatal("init does not end")
	}
	m.output(1, "bye")
}

// Orphans of daemons end up with init, which reaps them.
func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	m.spawn(m.sh(1, `for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.01 &) ; done; sleep 0.2`))
	m.exit(1)
	m.await("no child of init left", func() bool { return len(m.childrenOf(m.cmd.Process.Pid, "")) == 0 })
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	const n = 300
	var spawns sync.WaitGroup
	defer spawns.Wait() // an end may be told before its start is answered
	for id := range int64(n) {
		spawns.Go(func() {
			if _, err := m.Spawn(t.Context(), m.spec(id, "sh", "-c", "exit "+strconv.Itoa(int(id%100)))); err != nil {
				t.Error(err)
			}
		})
	}
	for id := range int64(n) {
		if s := m.exit(id); code(s) != strconv.Itoa(int(id%100)) {
			t.Errorf("%+v code %s", s, code(s))
		}
	}
}
