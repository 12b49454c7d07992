package initd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/agent/initd"
)

// The test binary is also the init and the agent of test machines.
func TestMain(m *testing.M) {
	switch os.Getenv("INITD_TEST_ROLE") {
	case "init":
		if err := runInit(); err != nil {
			fmt.Fprintln(os.Stderr, "init:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "agent":
		// Each life of the agent leaves its pid.
		f, err := os.OpenFile(filepath.Join(os.Getenv("INITD_TEST_DIR"), "agents"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			os.Exit(1)
		}
		fmt.Fprintln(f, os.Getpid())
		f.Close()
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runInit() error {
	dir := os.Getenv("INITD_TEST_DIR")
	// As in a machine, /proc is that of the own process namespace.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV, "hidepid=2"); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	for c := range strings.FieldsSeq(os.Getenv("INITD_TEST_CGROUPS")) {
		if err := os.WriteFile(filepath.Join(c, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := initd.Config{
		Dir: filepath.Join(dir, "run"), Etc: filepath.Join(dir, "etc"), Grace: time.Second, Scratch: []string{filepath.Join(dir, "scratch")},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if os.Getenv("INITD_TEST_AGENT") != "" {
		os.Setenv("INITD_TEST_ROLE", "agent")
		cfg.Agent = []string{"/proc/self/exe"}
	}
	return initd.Run(ctx, cfg)
}

// testMachine is an init in its own process, mount and user namespaces, with the users' ids
// mapped to themselves, and in scratch cgroups.
type testMachine struct {
	*initd.Client
	t    testing.TB
	dir  string
	name string // of its cgroups
	cmd  *exec.Cmd
	log  *lockedBuffer
	mu   sync.Mutex
	got  map[int64]initd.Status
	more chan struct{}
}

const (
	machineRoot = 100000 // host id of the machine's root
	userID      = 20001
	waitLimit   = 10 * time.Second // for anything that must happen
)

var machineNumber struct {
	sync.Mutex
	n int
}

func startMachine(t testing.TB, env ...string) *testMachine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: init needs root")
	}
	machineNumber.Lock()
	machineNumber.n++
	name := fmt.Sprintf("dspool-initd-test-%d-%d", os.Getpid(), machineNumber.n)
	machineNumber.Unlock()
	var cgroups []string
	for _, c := range []string{"memory", "cpu", "pids", "freezer"} {
		dir := filepath.Join("/sys/fs/cgroup", c, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("NOT TESTED: init needs cgroup v1 controllers that it may write: %v", err)
		}
		cgroups = append(cgroups, dir)
		t.Cleanup(func() { removeCgroup(t, dir) })
		for _, f := range []string{"", "cgroup.procs", "tasks"} {
			must(t, os.Chown(filepath.Join(dir, f), machineRoot, machineRoot))
		}
	}
	dir, err := os.MkdirTemp("", "initd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{".", "etc", "run", "jobs"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		must(t, os.Chown(filepath.Join(dir, d), machineRoot, machineRoot))
		must(t, os.Chmod(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Mkdir(filepath.Join(dir, "scratch"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "scratch"), os.ModeSticky|0o777))
	must(t, os.Chown(filepath.Join(dir, "scratch"), machineRoot, machineRoot))
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/bash\nimage:x:20099:20099::/:/bin/sh"), 0o644))
	must(t, os.Chown(filepath.Join(dir, "jobs"), userID, userID))

	m := &testMachine{t: t, dir: dir, name: name, log: &lockedBuffer{}, got: map[int64]initd.Status{}, more: make(chan struct{})}
	// The binary lies in a directory that only the host's root may search.
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = append(append(os.Environ(), env...), "INITD_TEST_ROLE=init", "INITD_TEST_DIR="+dir, "INITD_TEST_CGROUPS="+strings.Join(cgroups, " "))
	m.cmd.Stderr = m.log
	ids := []syscall.SysProcIDMap{
		{ContainerID: 0, HostID: machineRoot, Size: 20000},
		{ContainerID: 20000, HostID: 20000, Size: 10000},
		{ContainerID: 30000, HostID: machineRoot + 30000, Size: 35536},
	}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUSER,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
	lifeline, err := m.cmd.StdinPipe() // its end is init's end, also when this process is killed
	must(t, err)
	must(t, m.cmd.Start())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		m.cmd.Process.Kill()
		m.cmd.Wait()
		lifeline.Close()
		wg.Wait()
		if t.Failed() {
			t.Logf("init said:\n%s", m.log.String())
		}
	})
	m.Client = initd.NewClientFunc(func(context.Context) (net.Conn, error) { return m.dialAs(machineRoot) })
	m.await("init serves", func() bool { _, err := m.List(ctx); return err == nil })
	wg.Go(func() { _ = m.Exits(ctx, m.note) })
	return m
}

// dialAs connects to init with the user id uid of the host.
func (m *testMachine) dialAs(uid int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread with the other id is discarded
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- result{nil, errno}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			done <- result{nil, err}
			return
		}
		f := os.NewFile(uintptr(fd), "init")
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(m.dir, "run", initd.SocketName)}); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := net.FileConn(f)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func removeCgroup(t testing.TB, dir string) {
	end := time.Now().Add(waitLimit)
	for {
		children, _ := filepath.Glob(filepath.Join(dir, "*", "tasks"))
		parts, _ := filepath.Glob(filepath.Join(dir, "*", "*", "tasks"))
		for _, c := range append(parts, children...) {
			unix.Rmdir(filepath.Dir(c))
		}
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("cgroup %s is left behind: %v", dir, err)
			return
		}
		time.Sleep(5 * time.Millisecond) // the kernel tells nobody when the last process is gone
	}
}

func (m *testMachine) note(s initd.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got[s.ID] = s
	close(m.more)
	m.more = make(chan struct{})
}

// await polls what no channel tells.
func (m *testMachine) await(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s did not come true in %v; init said:\n%s", what, waitLimit, m.log.String())
		}
	}
}

// exit waits for the end of an attempt.
func (m *testMachine) exit(id int64) initd.Status {
	m.t.Helper()
	late := time.After(waitLimit)
	for {
		m.mu.Lock()
		s := m.got[id]
		more := m.more
		m.mu.Unlock()
		if s.State == initd.Ended {
			return s
		}
		select {
		case <-more:
		case <-late:
			list, err := m.List(context.Background())
			m.t.Fatalf("attempt %d did not end in %v: %+v, %v; init said:\n%s", id, waitLimit, list, err, m.log.String())
		}
	}
}

// told is what init last told of an attempt.
func (m *testMachine) told(id int64) initd.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.got[id]
}

func (m *testMachine) spec(id int64, command ...string) initd.Spec {
	return initd.Spec{
		ID: id, Job: 7, Index: id, Count: 9, Account: api.Account{User: "alice", UID: userID, GID: userID, Home: m.dir},
		Dir: filepath.Join(m.dir, "jobs", strconv.FormatInt(id, 10)), Command: command,
		Request: dspool.Resources{CPUs: 1.5, Memory: 64 << 20},
	}
}

func (m *testMachine) sh(id int64, script string) initd.Spec {
	return m.spec(id, "/bin/sh", "-c", script)
}

func (m *testMachine) spawn(s initd.Spec) initd.Status {
	m.t.Helper()
	st, err := m.Spawn(m.t.Context(), s)
	must(m.t, err)
	return st
}

// output waits until an attempt's stdout.txt holds want, or returns it as it is for "".
func (m *testMachine) output(id int64, want string) string {
	m.t.Helper()
	var text []byte
	m.await(fmt.Sprintf("output %q of attempt %d", want, id), func() bool {
		text, _ = os.ReadFile(filepath.Join(m.dir, "jobs", strconv.FormatInt(id, 10), "stdout.txt"))
		return want == "" || strings.Contains(string(text), want)
	})
	return string(text)
}

// childrenOf lists processes whose parent is pid, whose command begins with name, and that
// are no zombies of a moment.
func (m *testMachine) childrenOf(pid int, name string) (pids []int) {
	m.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	must(m.t, err)
	for _, f := range all {
		stat, err := os.ReadFile(f)
		_, rest, ok := strings.Cut(string(stat), ") ")
		if err != nil || !ok || strings.Fields(rest)[1] != strconv.Itoa(pid) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
		if strings.HasPrefix(string(cmdline), name) {
			id, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, id)
		}
	}
	return pids
}

// nothingLives fails when a process of any attempt lives.
func (m *testMachine) nothingLives() {
	m.t.Helper()
	dirs, err := filepath.Glob("/sys/fs/cgroup/freezer/" + m.name + "/*/cgroup.procs")
	must(m.t, err)
	parts, err := filepath.Glob("/sys/fs/cgroup/freezer/" + m.name + "/*/*/cgroup.procs")
	must(m.t, err)
	dirs = append(dirs, parts...)
	for _, f := range dirs {
		if text, err := os.ReadFile(f); err == nil && len(text) > 0 {
			m.t.Errorf("still alive in %s: %s", f, text)
		}
	}
}

// residentMiB is init's resident memory.
func (m *testMachine) residentMiB() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.cmd.Process.Pid))
	must(m.t, err)
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	must(m.t, err)
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
