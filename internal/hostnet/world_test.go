package hostnet_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dspool/dspool/internal/hostnet"
	"github.com/dspool/dspool/internal/provider"
)

const (
	roleEnv   = "DSPOOL_HOSTNET_ROLE" // of a process that a test started from its own binary
	roleWorld = "world"               // a test within namespaces of its own
	rolePause = "pause"               // holds namespaces until its standard input ends

	agentPort   = 8444
	doorPort    = 8445
	servicePort = 7000                   // of listeners in machines
	reachLimit  = 3 * time.Second        // for what must work
	atOnce      = 100 * time.Millisecond // less than any wait for a name server
	worldLimit  = 2 * time.Minute        // for a whole test
)

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == rolePause {
		io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

// inWorld says whether the test runs in a network and mount namespace of its own.
// If not, it runs the test there, in a child process, and reports how that went.
func inWorld(t *testing.T) bool {
	t.Helper()
	if os.Getenv(roleEnv) == roleWorld {
		makeWorld(t)
		return true
	}
	if testing.Short() {
		t.Skip("SKIPPED: -short makes no networks")
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: the network of machines needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), worldLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleWorld)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the death signal is bound to this thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its own namespaces: %v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("in its own namespaces:\n%s", out)
	}
	return false
}

// makeWorld readies the fresh namespaces: nothing done in them reaches the real host.
func makeWorld(t *testing.T) {
	t.Helper()
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	setResolvConf(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
}

var resolvFile string

// setResolvConf makes the world's /etc/resolv.conf name these servers.
func setResolvConf(t *testing.T, servers ...string) {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if resolvFile == "" {
		resolvFile = filepath.Join(t.TempDir(), "resolv.conf")
		must(t, os.WriteFile(resolvFile, nil, 0o644))
		must(t, unix.Mount(resolvFile, "/etc/resolv.conf", "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH) })
	}
	must(t, os.WriteFile(resolvFile, []byte(b.String()), 0o644))
}

// space is a network namespace with a process that keeps it.
type space struct {
	t    *testing.T
	pid  int
	ns   *os.File
	addr netip.Addr
	end  func()
}

// newSpace makes a namespace; owned ones belong to a user namespace, as machines' do.
func newSpace(t *testing.T, owned bool) *space {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+rolePause, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if owned {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1_000_000, Size: 65536}}
		cmd.SysProcAttr.GidMappings = cmd.SysProcAttr.UidMappings
	}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	s := &space{t: t, pid: cmd.Process.Pid}
	s.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", s.pid))
	must(t, err)
	ended := false
	s.end = func() {
		if !ended {
			ended = true
			stdin.Close()
			cmd.Wait()
			s.ns.Close()
		}
	}
	t.Cleanup(s.end)
	return s
}

// do runs f on a thread within the space.
func (s *space) do(f func()) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done)      // also when f ends the test
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
	}()
	must(s.t, <-done)
}

// serve answers TCP connections within the space: first the peer's address as the
// space sees it, then every line again.
func (s *space) serve(address string) {
	s.t.Helper()
	var l net.Listener
	var err error
	s.do(func() { l, err = net.Listen("tcp4", address) })
	must(s.t, err)
	serveOn(s.t, l)
}

func serveOn(t *testing.T, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, c.RemoteAddr().(*net.TCPAddr).IP)
				io.Copy(c, c)
			}()
		}
	}()
}

// serveHost is serve on the host.
func serveHost(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	must(t, err)
	serveOn(t, l)
}

// stream is a connection to a server of serve.
type stream struct {
	net.Conn
	in   *bufio.Reader
	peer string // our address as the server sees it
}

func (s *space) dial(address string) (c *stream, err error) {
	s.t.Helper()
	s.do(func() { c, err = dial(address) })
	return c, err
}

func dial(address string) (*stream, error) {
	c, err := net.DialTimeout("tcp4", address, reachLimit)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(reachLimit))
	s := &stream{Conn: c, in: bufio.NewReader(c)}
	if s.peer, err = s.in.ReadString('\n'); err != nil {
		c.Close()
		return nil, err
	}
	s.peer = strings.TrimSpace(s.peer)
	return s, nil
}

// echo says whether the connection still carries data both ways.
func (c *stream) echo() error {
	c.SetDeadline(time.Now().Add(reachLimit))
	if _, err := io.WriteString(c, "still there\n"); err != nil {
		return err
	}
	line, err := c.in.ReadString('\n')
	if err == nil && line != "still there\n" {
		err = fmt.Errorf("got %q", line)
	}
	return err
}

func (s *space) mustReach(address string) *stream {
	s.t.Helper()
	c, err := s.dial(address)
	if err != nil {
		s.t.Fatalf("%s does not reach %s: %v", s.addr, address, err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// mustNotReach also wants the refusal at once: people see an error, not a hang.
func (s *space) mustNotReach(address string) {
	s.t.Helper()
	c, err := s.dial(address)
	if err == nil {
		c.Close()
		s.t.Fatalf("%s reaches %s", s.addr, address)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		s.t.Errorf("%s is not refused by %s at once: %v", s.addr, address, err)
	}
}

// open opens a network that is removed when the test ends.
func open(t *testing.T, installation string) *hostnet.Net {
	t.Helper()
	n, err := hostnet.Open(t.Context(), hostnet.Options{Installation: installation, StateDir: stateDir(t, installation), AgentPort: agentPort, DoorPort: doorPort})
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

var stateDirs = map[string]string{}

// stateDir is the same for every Open of the installation in one world.
func stateDir(t *testing.T, installation string) string {
	if stateDirs[installation] == "" {
		stateDirs[installation] = t.TempDir()
	}
	return stateDirs[installation]
}

// machine makes a namespace, plugs it in and lets it serve on servicePort.
func machine(t *testing.T, n *hostnet.Net, name string, reach provider.Reach) *space {
	t.Helper()
	s := newSpace(t, true)
	addr, err := n.Plug(t.Context(), name, s.pid, reach)
	must(t, err)
	s.addr = addr
	s.serve(fmt.Sprintf(":%d", servicePort))
	return s
}

// service is the address of what the machine serves.
func (s *space) service() string { return at(s.addr, servicePort) }

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// uplink gives the world an "internet": a namespace with 198.51.100.1 and the other addresses
// that is the host's default route (the host has 198.51.100.2).
func uplink(t *testing.T, mtu int, others ...string) *space {
	t.Helper()
	s := newSpace(t, false)
	s.addr = netip.MustParseAddr("198.51.100.1")
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0", MTU: mtu}, PeerName: "up1", PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(s.ns.Fd())}))
	l, err := netlink.LinkByName("up0")
	must(t, err)
	must(t, netlink.AddrAdd(l, address("198.51.100.2/24")))
	must(t, netlink.LinkSetUp(l))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: s.addr.AsSlice()}))
	s.do(func() {
		p, err := netlink.LinkByName("up1")
		must(t, err)
		must(t, netlink.AddrAdd(p, address("198.51.100.1/24")))
		for _, a := range others {
			must(t, netlink.AddrAdd(p, address(a+"/32")))
		}
		must(t, netlink.LinkSetUp(p))
		// Without NAT, answers would find the way too: only the rules keep machines in.
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: p.Attrs().Index, Gw: net.IPv4(198, 51, 100, 2)}))
	})
	s.serve(":80")
	return s
}

func address(s string) *netlink.Addr {
	a, err := netlink.ParseAddr(s)
	if err != nil {
		panic(err)
	}
	return a
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// interfaces lists the host's interface names that begin with prefix.
func interfaces(t *testing.T, prefix string) []string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	var out []string
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, prefix) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out
}
