package gateway_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/api"
)

// testUsers are the accounts of every test machine.
var testUsers = map[string]int{"alice": 20001, "bob": 20002, "carol": 20003}

// machine is a real OpenSSH sshd with accounts of its own, one process a connection, on loopback.
type machine struct {
	name     string
	address  string
	hostKey  string
	home     string
	listener net.Listener
	argv     []string

	mu    sync.Mutex
	procs map[*exec.Cmd]net.Conn
	dead  bool
	wait  sync.WaitGroup
}

func startMachine(t testing.TB, name string, ca ssh.PublicKey) *machine {
	t.Helper()
	sshd := needs(t, "sshd")
	dir := t.TempDir()
	// Homes must be reachable by the users.
	for d := dir; d != "/" && d != filepath.Clean(os.TempDir()); d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	_, signer := newKey(t)
	key := filepath.Join(dir, "host")
	writeKey(t, key, signer)
	pub, err := ssh.NewPublicKey(signer.Public())
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(dir, "ca.pub"), ssh.MarshalAuthorizedKey(ca), 0o644))
	ok(t, os.MkdirAll("/run/sshd", 0o755))
	passwd, shadow, group := "root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n", "root:*:19000::::::\nsshd:*:19000::::::\n", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"
	for user, uid := range testUsers {
		home := filepath.Join(dir, "home", user)
		ok(t, os.MkdirAll(home, 0o755))
		ok(t, os.Chmod(home, 0o700))
		ok(t, os.Chown(home, uid, uid))
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash\n", user, uid, uid, home)
		shadow += user + ":*:19000::::::\n"
		group += fmt.Sprintf("%s:x:%d:\n", user, uid)
	}
	for file, text := range map[string]string{"passwd": passwd, "group": group, "shadow": shadow, "sshd_config": fmt.Sprintf(`
HostKey %s
TrustedUserCAKeys %s
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin no
X11Forwarding yes
X11UseLocalhost yes
AllowAgentForwarding yes
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
GatewayPorts clientspecified
MaxSessions 200
AcceptEnv LANG LC_*
PrintMotd no
PidFile none
Subsystem sftp internal-sftp
`, key, filepath.Join(dir, "ca.pub"))} {
		ok(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	m := &machine{name: name, home: filepath.Join(dir, "home"), hostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))), procs: map[*exec.Cmd]net.Conn{}}
	script := `for f in passwd group shadow; do mount --bind "$0/$f" /etc/$f || exit 1; done; exec "$1" -i -f "$0/sshd_config" -E "$0/log"`
	m.argv = []string{needs(t, "unshare"), "--mount", "--propagation", "private", "/bin/sh", "-c", script, dir, sshd}
	m.listener, err = net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	m.address = m.listener.Addr().String()
	go m.serve()
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			if log, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && len(log) > 0 {
				t.Logf("sshd of %s:\n%s", name, tail(string(log), 2000))
			}
		}
	})
	return m
}

func (m *machine) serve() {
	for {
		c, err := m.listener.Accept()
		if err != nil {
			return
		}
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			c.Close()
			continue
		}
		cmd := exec.Command(m.argv[0], m.argv[1:]...)
		cmd.Stdin, cmd.Stdout = f, f
		m.mu.Lock()
		if m.dead || cmd.Start() != nil {
			m.mu.Unlock()
			f.Close()
			c.Close()
			continue
		}
		m.procs[cmd] = c
		m.mu.Unlock()
		f.Close()
		c.Close()
		m.wait.Go(func() {
			cmd.Wait()
			m.mu.Lock()
			delete(m.procs, cmd)
			m.mu.Unlock()
		})
	}
}

// kill ends the machine with everything on it.
func (m *machine) kill() {
	m.listener.Close()
	m.mu.Lock()
	m.dead = true
	for cmd := range m.procs {
		killTree(cmd.Process.Pid)
	}
	m.mu.Unlock()
	m.wait.Wait()
}

// killTree kills a process and its descendants, which sshd puts into sessions of their own.
func killTree(pid int) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if p, err := os.FindProcess(pid); err == nil {
		p.Kill()
	}
	for _, f := range strings.Fields(string(children)) {
		var child int
		fmt.Sscan(f, &child)
		killTree(child)
	}
}

func (m *machine) logins() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.procs)
}

func (m *machine) access() *api.MachineAccess {
	return &api.MachineAccess{Machine: m.name, Address: m.address, HostKeys: []string{m.hostKey}}
}

func needs(t testing.TB, program string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED with -short: runs a real sshd")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root for a real sshd")
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	t.Skipf("SKIPPED: needs %s", program)
	return ""
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// talkativeMachine tells whoever runs something what no client knows, and wants no answer. Its commands are `echo`.
func talkativeMachine(t *testing.T) *api.MachineAccess {
	t.Helper()
	host, _ := newKey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return &ssh.Permissions{}, nil }}
	config.AddHostKey(host)
	session := func(conn ssh.Conn, asked ssh.NewChannel) {
		ch, reqs, err := asked.Accept()
		if err != nil {
			return
		}
		defer ch.Close()
		for req := range reqs {
			req.Reply(true, nil)
			if req.Type != "exec" {
				continue
			}
			conn.SendRequest("news@example.org", false, []byte("nothing"))
			ch.SendRequest("news@example.org", false, nil)
			ch.SendRequest("eow@openssh.com", false, nil)
			var command struct{ Line string }
			_ = ssh.Unmarshal(req.Payload, &command)
			for part := range strings.SplitSeq(command.Line, ";") {
				fmt.Fprintln(ch, strings.TrimPrefix(strings.TrimSpace(part), "echo "))
			}
			ch.SendRequest("exit-status", false, make([]byte, 4))
			return
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				conn, chans, reqs, err := ssh.NewServerConn(c, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(reqs)
				for ch := range chans {
					go session(conn, ch)
				}
			}()
		}
	}()
	return &api.MachineAccess{Machine: "talker-1", Address: l.Addr().String(), HostKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(host.PublicKey())))}}
}
