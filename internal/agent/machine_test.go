package agent_test

import (
	"context"
	"encoding/json"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool/internal/agent"
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/provider"
)

// The test binary is also the inside of test machines: first "stage", which makes the machine's
// file system and becomes "init", which starts "agent".
func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv("AGENT_TEST_ROLE"); role {
	case "":
		os.Exit(m.Run())
	case "stage":
		err = runStage()
	case "init":
		err = runInit()
	case "agent":
		err = runAgent()
	default:
		err = errors.New("no role " + role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv("AGENT_TEST_ROLE")+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// stageOrder is what a stage is told.
type stageOrder struct {
	Lower   string // root file system, which is not changed
	Dir     string // of the test; /run/test in the machine
	Cgroups []string
	Users   map[string]int
}

// runStage makes the root file system of a machine and becomes its init, with the rights that
// init has in a machine.
func runStage() error {
	var o stageOrder
	if err := json.Unmarshal([]byte(os.Getenv("AGENT_TEST_STAGE")), &o); err != nil {
		return err
	}
	for _, c := range o.Cgroups {
		if err := os.WriteFile(filepath.Join(c, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	scratch, root := filepath.Join(o.Dir, "scratch"), filepath.Join(o.Dir, "root")
	in := func(path string) string { return filepath.Join(root, path) }
	mkdir := func(dirs ...string) (err error) {
		for _, d := range dirs {
			err = errors.Join(err, os.MkdirAll(d, 0o755), os.Chmod(d, 0o755))
		}
		return err
	}
	mount := func(source, target, kind string, flags uintptr, data string) {
		if err == nil {
			if err = mkdir(target); err == nil {
				if e := unix.Mount(source, target, kind, flags, data); e != nil {
					err = fmt.Errorf("mount %s: %w", target, e)
				}
			}
		}
	}
	mount("scratch", scratch, "tmpfs", 0, "mode=0755")
	err = errors.Join(err, mkdir(scratch+"/upper", scratch+"/work", root))
	mount("overlay", root, "overlay", 0, "lowerdir="+o.Lower+",upperdir="+scratch+"/upper,workdir="+scratch+"/work")
	mount("proc", in("proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV, "hidepid=2")
	mount("/sys", in("sys"), "", unix.MS_BIND|unix.MS_REC, "")
	mount("dev", in("dev"), "tmpfs", unix.MS_NOSUID, "mode=0755")
	mount("pts", in("dev/pts"), "devpts", unix.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620,gid=5")
	mount("shm", in("dev/shm"), "tmpfs", unix.MS_NOSUID, "mode=1777")
	mount("run", in("run"), "tmpfs", unix.MS_NOSUID, "mode=0755")
	mount(o.Dir, in("run/test"), "", unix.MS_BIND, "")
	mount("tmp", in("tmp"), "tmpfs", unix.MS_NOSUID, "mode=1777")
	if err != nil {
		return err
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		err = errors.Join(err, unix.Mknod(in("dev/"+name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))), os.Chmod(in("dev/"+name), 0o666))
	}
	err = errors.Join(err, unix.Mknod(in("dev/tty"), unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))), os.Chmod(in("dev/tty"), 0o666), os.Symlink("pts/ptmx", in("dev/ptmx")))
	for user, uid := range o.Users {
		err = errors.Join(err, mkdir(in("home/"+user)), os.Chown(in("home/"+user), uid, uid), os.Chmod(in("home/"+user), 0o700))
	}
	if err = errors.Join(err, unix.Chroot(root), os.Chdir("/"), dropCapabilities()); err != nil {
		return err
	}
	os.Setenv("AGENT_TEST_ROLE", "init")
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	return unix.Exec("/proc/self/exe", []string{"init"}, os.Environ())
}

// dropCapabilities leaves those of a machine's root, when the program is next exec'd.
func dropCapabilities() error {
	keep := map[uintptr]bool{
		unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FOWNER: true, unix.CAP_FSETID: true, unix.CAP_KILL: true,
		unix.CAP_SETGID: true, unix.CAP_SETUID: true, unix.CAP_SETPCAP: true, unix.CAP_SETFCAP: true, unix.CAP_NET_BIND_SERVICE: true,
		unix.CAP_SYS_CHROOT: true, unix.CAP_AUDIT_WRITE: true, unix.CAP_MKNOD: true,
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if !keep[c] {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
				return err
			}
		}
	}
	return nil
}

func runInit() error {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the test has ended
		os.Exit(1)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	os.Setenv("AGENT_TEST_ROLE", "agent")
	return initd.Run(ctx, initd.Config{
		Agent: []string{"/proc/self/exe"}, Grace: time.Second,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
}

func runAgent() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	data, err := os.ReadFile("/run/test/boot.json")
	if err != nil {
		return err
	}
	var boot provider.AgentBoot
	if err := json.Unmarshal(data, &boot); err != nil {
		return err
	}
	if err := os.WriteFile("/run/test/agent.pid", []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	pid1 := initd.NewClient(agent.Socket)
	return agent.New(agent.Config{
		Boot: boot, Executor: pid1, Host: host.New(host.Config{Init: pid1, Grace: 200 * time.Millisecond, AppGrace: 300 * time.Millisecond, Log: log}),
		Dir: agent.StateDir, Log: log, LookEvery: 50 * time.Millisecond, CheckEvery: 50 * time.Millisecond,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", "/run/test/server.sock")
		},
	}).Run(ctx)
}

// realMachine is a machine of processes: init, agent and sshd of their own in namespaces.
type realMachine struct {
	t      testing.TB
	dir    string
	cgroup string // name of its cgroups
	cmd    *exec.Cmd
	log    *lockedBuffer
}

var machines atomic.Int32

// lower is the root file system of test machines; that of the host unless told otherwise.
func lower() string {
	if dir := os.Getenv("DSPOOL_TEST_ROOTFS"); dir != "" {
		return dir
	}
	return "/"
}

func startRealMachine(t testing.TB, s *server, users map[string]int) *realMachine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: real sessions need root")
	}
	for _, f := range []string{"usr/sbin/sshd", "usr/bin/python3"} {
		if _, err := os.Stat(filepath.Join(lower(), f)); err != nil {
			t.Skipf("NOT TESTED: real sessions need %s", f)
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory/cgroup.procs"); err != nil {
		t.Skip("NOT TESTED: this test makes cgroups of v1")
	}
	dir, err := os.MkdirTemp("", "machine")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	name := fmt.Sprintf("dspool-agent-test-%d-%d", os.Getpid(), machines.Add(1))
	order := stageOrder{Lower: lower(), Dir: dir, Users: users}
	for _, c := range []string{"memory", "cpu", "pids", "freezer"} {
		c = filepath.Join("/sys/fs/cgroup", c, name)
		must(t, os.MkdirAll(c, 0o755))
		t.Cleanup(func() { removeCgroup(t, c) })
		order.Cgroups = append(order.Cgroups, c)
	}
	boot, err := json.Marshal(s.boot())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "boot.json"), boot, 0o600))
	forward(t, filepath.Join(dir, "server.sock"), s.http.Listener.Addr().String())
	text, err := json.Marshal(order)
	must(t, err)

	m := &realMachine{t: t, dir: dir, cgroup: name, log: &lockedBuffer{}}
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = append(os.Environ(), "AGENT_TEST_ROLE=stage", "AGENT_TEST_STAGE="+string(text))
	m.cmd.Stderr = m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	lifeline, err := m.cmd.StdinPipe()
	must(t, err)
	must(t, m.cmd.Start())
	t.Cleanup(func() {
		lifeline.Close()
		m.cmd.Process.Kill()
		m.cmd.Wait()
		if t.Failed() {
			t.Logf("the machine said:\n%s", m.log.String())
		}
	})
	return m
}

// forward carries connections to the unix socket at path to a TCP address.
func forward(t testing.TB, path, address string) {
	l, err := net.Listen("unix", path)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					out.Close()
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
}

// dial connects to a port of the machine, in its network namespace.
func (m *realMachine) dial(port int) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is discarded
		ns, e := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.cmd.Process.Pid))
		if err = e; err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		fd, e := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err = e; err != nil {
			return
		}
		f := os.NewFile(uintptr(fd), "ssh")
		defer f.Close()
		if err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return
		}
		conn, err = net.FileConn(f)
	}()
	<-done
	return conn, err
}

// await polls what no channel tells.
func (m *realMachine) await(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(waitLimit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s did not come true in %v", what, waitLimit)
		}
	}
}

// find returns the host's ids of the machine's processes whose command line begins with prefix.
func (m *realMachine) find(prefix string) (pids []int) {
	procs, err := filepath.Glob("/sys/fs/cgroup/freezer/" + m.cgroup + "/cgroup.procs")
	must(m.t, err)
	more, err := filepath.Glob("/sys/fs/cgroup/freezer/" + m.cgroup + "/*/cgroup.procs")
	must(m.t, err)
	parts, err := filepath.Glob("/sys/fs/cgroup/freezer/" + m.cgroup + "/*/*/cgroup.procs")
	must(m.t, err)
	for _, f := range slices.Concat(procs, more, parts) {
		text, _ := os.ReadFile(f)
		for pid := range strings.FieldsSeq(string(text)) {
			cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if strings.HasPrefix(strings.ReplaceAll(string(cmdline), "\x00", " "), prefix) {
				id, _ := strconv.Atoi(pid)
				pids = append(pids, id)
			}
		}
	}
	return pids
}

func removeCgroup(t testing.TB, dir string) {
	for end := time.Now().Add(waitLimit); ; time.Sleep(5 * time.Millisecond) {
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
