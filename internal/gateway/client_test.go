package gateway_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestOpenSSHClientWorksAsWithAnySSHServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("a command's output, error output and exit code arrive", func(t *testing.T) {
		out, errs, code := run(w.ssh("alice", "--", "echo out; echo err >&2; exit 7"), nil)
		if out != "out\n" || errs != "err\n" || code != 7 {
			t.Fatalf("out %q, err %q, code %d", out, errs, code)
		}
	})
	t.Run("the end of input reaches the command", func(t *testing.T) {
		if out := w.want(w.ssh("alice", "--", "wc -c"), strings.NewReader(strings.Repeat("x", 3<<20))); strings.TrimSpace(out) != "3145728" {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("nothing is lost of much output that ends with the command", func(t *testing.T) {
		out := w.want(w.ssh("alice", "--", "head -c 20000000 /dev/zero | tr '\\0' y; echo end"), nil)
		if len(out) != 20000004 || !strings.HasSuffix(out, "yend\n") {
			t.Fatalf("%d bytes came", len(out))
		}
	})
	t.Run("everybody is who they are on the machine", func(t *testing.T) {
		for user, uid := range map[string]string{"alice": "20001", "bob": "20002"} {
			if out := w.want(w.ssh(user, "--", "id -un; id -u"), nil); out != user+"\n"+uid+"\n" {
				t.Fatalf("%s is %q", user, out)
			}
		}
	})
	t.Run("a terminal has a shell, a size and a signal on Ctrl-C", func(t *testing.T) {
		out, errs, code := run(w.ssh("alice", "-tt"), strings.NewReader("stty size; tty; exit 3\n"))
		if code != 3 || !strings.Contains(out, "/dev/pts/") {
			t.Fatalf("code %d\n%s%s", code, out, errs)
		}
	})
	t.Run("a command that a signal ends says so", func(t *testing.T) {
		if _, _, code := run(w.ssh("alice", "--", "kill -TERM $$"), nil); code != 255 && code != 143 {
			t.Fatalf("code %d", code)
		}
	})
	t.Run("scp, sftp and rsync carry files whole", func(t *testing.T) { testFiles(t, w) })
	t.Run("agent forwarding reaches the person's agent", func(t *testing.T) {
		env := append(os.Environ(), "SSH_AUTH_SOCK="+startAgent(t))
		add := exec.Command("ssh-add", w.keys["bob"])
		add.Env = env
		w.want(add, nil)
		cmd := w.ssh("alice", "-A", "--", "ssh-add -l")
		cmd.Env = env
		if out := w.want(cmd, nil); !strings.Contains(out, ssh.FingerprintSHA256(w.signers["bob"].PublicKey())) {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("X11 is asked for and granted", func(t *testing.T) {
		needs(t, "xauth")
		cmd := w.ssh("alice", "-Y", "--", "printenv DISPLAY")
		cmd.Env = append(os.Environ(), "DISPLAY=127.0.0.1:9", "XAUTHORITY="+filepath.Join(t.TempDir(), "x"))
		if out := w.want(cmd, nil); !strings.Contains(out, ":1") {
			t.Fatalf("DISPLAY is %q", out)
		}
	})
	t.Run("one connection carries many sessions (ControlMaster)", func(t *testing.T) {
		control := filepath.Join(t.TempDir(), "c")
		master := []string{"-o", "ControlMaster=auto", "-o", "ControlPath=" + control, "-o", "ControlPersist=30"}
		var pids [3]string
		for i := range pids {
			pids[i] = w.want(w.ssh("alice", append(master, "--", "echo $SSH_CONNECTION")...), nil)
		}
		if pids[0] != pids[1] || pids[1] != pids[2] {
			t.Fatalf("they were different connections: %q", pids)
		}
		w.want(w.ssh("alice", "-O", "exit", "-o", "ControlPath="+control), nil)
	})
}

// startAgent starts ssh-agent and returns its socket; the agent prints where it listens once it does.
func startAgent(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent")
	agent := exec.CommandContext(deadline(t), needs(t, "ssh-agent"), "-D", "-a", socket)
	out, err := agent.StdoutPipe()
	ok(t, err)
	ok(t, agent.Start())
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	_, err = out.Read(make([]byte, 1))
	ok(t, err)
	return socket
}

func TestManyConnectionsOfAnEditorLandTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := held(w)
	outs := make([]bytes.Buffer, 6)
	var cmds []*exec.Cmd
	for i := range outs {
		cmd := w.ssh("alice", "-T", "-D", filepath.Join(t.TempDir(), "socks"), "--", "sh")
		cmd.Stdin, cmd.Stdout = strings.NewReader("echo $HOME; cat /proc/sys/kernel/random/boot_id\n"), &outs[i]
		ok(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	w.server.until("all wait", func() bool { return len(w.server.opened) == len(outs) })
	release()
	for i, cmd := range cmds {
		ok(t, cmd.Wait())
		if outs[i].String() != outs[0].String() || !strings.HasPrefix(outs[i].String(), filepath.Join(w.machine.home, "alice")) {
			t.Errorf("connection %d: %q", i, outs[i].String())
		}
	}
}

func TestSixtyLoginsAtOnceAllComeIn(t *testing.T) {
	w := newWorld(t)
	release := held(w)
	var wait sync.WaitGroup
	for i := range 60 {
		user := []string{"alice", "bob", "carol"}[i%3]
		cmd := w.ssh(user, "--", "id -un")
		wait.Go(func() {
			if out, errs, code := run(cmd, nil); out != user+"\n" || code != 0 {
				t.Errorf("login %d: code %d, %q %s", i, code, out, errs)
			}
		})
	}
	w.server.until("all wait", func() bool { return len(w.server.opened) == 60 })
	release()
	wait.Wait()
}

func testFiles(t *testing.T, w *world) {
	data := make([]byte, 5<<20+17)
	rand.Read(data)
	local := filepath.Join(t.TempDir(), "data")
	ok(t, os.WriteFile(local, data, 0o644))
	home := filepath.Join(w.machine.home, "alice")
	same := func(path string) {
		t.Helper()
		got, err := os.ReadFile(path)
		ok(t, err)
		if sha256.Sum256(got) != sha256.Sum256(data) {
			t.Fatalf("%s differs (%d bytes)", path, len(got))
		}
	}
	options := w.options(w.keys["alice"])
	client := func(program string, args ...string) {
		t.Helper()
		w.want(exec.CommandContext(deadline(t), needs(t, program), args...), nil)
	}
	client("scp", append(options, local, "alice@127.0.0.1:scp")...)
	same(filepath.Join(home, "scp"))
	client("scp", append(options, "-O", "alice@127.0.0.1:scp", local+".back")...)
	same(local + ".back")
	batch := filepath.Join(t.TempDir(), "batch")
	ok(t, os.WriteFile(batch, fmt.Appendf(nil, "put %s sftp\nget sftp %s.sftp\n", local, local), 0o644))
	client("sftp", append(options, "-b", batch, "alice@127.0.0.1")...)
	same(filepath.Join(home, "sftp"))
	same(local + ".sftp")
	client("rsync", "-e", "ssh "+strings.Join(options, " "), local, "alice@127.0.0.1:rsync")
	same(filepath.Join(home, "rsync"))
}

// echo answers every connection with what it sends, once it is at its end.
func echo(t testing.TB, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	ok(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c) // answers only after the half-close has arrived
				c.Write(append([]byte("echo "), b...))
			}()
		}
	}()
	return l
}

func ask(t testing.TB, c net.Conn, text string) string {
	t.Helper()
	defer c.Close()
	io.WriteString(c, text)
	c.(interface{ CloseWrite() error }).CloseWrite()
	b, err := io.ReadAll(c)
	ok(t, err)
	return string(b)
}

func TestForwardingOfEverySort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	there := echo(t, "tcp", "127.0.0.1:0").Addr().String()
	dir := t.TempDir()
	local := func(name string) string { return filepath.Join(dir, name) }
	hold := func(t *testing.T, flags ...string) {
		t.Helper()
		cmd := w.ssh("alice", append(append([]string{"-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindUnlink=yes"}, flags...), "--", "echo ready; cat")...)
		in, err := cmd.StdinPipe()
		ok(t, err)
		out, err := cmd.StdoutPipe()
		ok(t, err)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		ok(t, cmd.Start())
		t.Cleanup(func() { in.Close(); cmd.Wait() })
		line := make([]byte, 6)
		if _, err := io.ReadFull(out, line); err != nil {
			t.Fatalf("not ready: %v %s", err, errs.String())
		}
	}
	dial := func(t *testing.T, network, address string) net.Conn {
		t.Helper()
		c, err := net.Dial(network, address)
		ok(t, err)
		return c
	}
	t.Run("-L to a port, with half-close", func(t *testing.T) {
		hold(t, "-L", local("l")+":"+there)
		if got := ask(t, dial(t, "unix", local("l")), "hello"); got != "echo hello" {
			t.Fatalf("got %q", got)
		}
	})
	t.Run("-L to a unix socket", func(t *testing.T) {
		echo(t, "unix", local("far"))
		ok(t, os.Chmod(local("far"), 0o777))
		ok(t, os.Chmod(dir, 0o777))
		hold(t, "-L", local("lu")+":"+local("far"))
		if got := ask(t, dial(t, "unix", local("lu")), "hello"); got != "echo hello" {
			t.Fatalf("got %q", got)
		}
	})
	t.Run("-R of a port that the machine chooses", func(t *testing.T) {
		cl, err := w.client("alice", ssh.PublicKeys(w.signers["alice"]))
		ok(t, err)
		defer cl.Close()
		l, err := cl.Listen("tcp", "127.0.0.1:0")
		ok(t, err)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, "from here")
				c.Close()
			}
		}()
		c := dial(t, "tcp", l.Addr().String())
		b, err := io.ReadAll(c)
		ok(t, err)
		if string(b) != "from here" {
			t.Fatalf("got %q", b)
		}
	})
	t.Run("-R of a unix socket", func(t *testing.T) {
		ok(t, os.Chmod(dir, 0o777))
		hold(t, "-R", local("ru")+":"+there)
		if got := ask(t, dial(t, "unix", local("ru")), "back"); got != "echo back" {
			t.Fatalf("got %q", got)
		}
	})
	t.Run("-W is a connection of its own", func(t *testing.T) {
		cmd := w.ssh("alice", "-W", there)
		if out := w.want(cmd, strings.NewReader("hi")); out != "echo hi" {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("-D is a proxy", func(t *testing.T) {
		hold(t, "-D", local("socks"))
		c := dial(t, "unix", local("socks"))
		host, port, _ := net.SplitHostPort(there)
		var p uint16
		fmt.Sscan(port, &p)
		c.Write([]byte{5, 1, 0})
		answer := make([]byte, 12)
		_, err := io.ReadFull(c, answer[:2])
		ok(t, err)
		c.Write(append(append([]byte{5, 1, 0, 1}, net.ParseIP(host).To4()...), byte(p>>8), byte(p)))
		_, err = io.ReadFull(c, answer[:10])
		ok(t, err)
		if got := ask(t, c, "socks"); got != "echo socks" {
			t.Fatalf("got %q", got)
		}
	})
	t.Run("-J leads through the pool to another machine", func(t *testing.T) {
		other := startMachine(t, "far", w.server.machines.PublicKey())
		key := w.certify(w.server.machines, "jumper", func(*ssh.Certificate) {})
		config := local("config")
		_, door, _ := net.SplitHostPort(w.door)
		_, far, _ := net.SplitHostPort(other.address)
		ok(t, os.WriteFile(config, fmt.Appendf(nil, `
Host *
  BatchMode yes
  IdentitiesOnly yes
  StrictHostKeyChecking accept-new
  UserKnownHostsFile %s
  LogLevel ERROR
  User alice
  HostName 127.0.0.1
Host pool
  Port %s
  IdentityFile %s
Host far
  Port %s
  IdentityFile %s
`, local("hosts"), door, w.keys["alice"], far, key), 0o600))
		if out := w.want(exec.CommandContext(deadline(t), "ssh", "-F", config, "-J", "pool", "far", "id -un"), nil); out != "alice\n" {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("tunnel devices are refused", func(t *testing.T) {
		cl, err := w.client("alice", ssh.PublicKeys(w.signers["alice"]))
		ok(t, err)
		defer cl.Close()
		if _, _, err := cl.OpenChannel("tun@openssh.com", make([]byte, 8)); err == nil || !strings.Contains(err.Error(), "not forwarded") {
			t.Fatalf("got %v", err)
		}
	})
}

// TestTheEndOfInputComesAfterTheCommand is about `ssh pool command </dev/null`: the end of nothing is
// there as soon as the channel is, and sshd forgets one that comes before the command.
func TestTheEndOfInputComesAfterTheCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cl := w.login("alice")
	for range 5 { // the first waits for its machine, the others do not
		ch, reqs, err := cl.OpenChannel("session", nil)
		ok(t, err)
		go ssh.DiscardRequests(reqs)
		ok(t, ch.CloseWrite())
		// By the time of this answer the gateway has the end, and would have passed it.
		if _, err := ch.SendRequest("env", true, ssh.Marshal(struct{ Name, Value string }{"LC_TEST", "x"})); err != nil {
			t.Fatal(err)
		}
		if good, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"cat; echo end"})); !good || err != nil {
			t.Fatal(good, err)
		}
		out := make(chan string, 1)
		go func() { b, _ := io.ReadAll(ch); out <- string(b) }()
		select {
		case got := <-out:
			if got != "end\n" {
				t.Errorf("got %q", got)
			}
		case <-time.After(waitForIt):
			t.Fatal("the command waits for the end of its input")
		}
	}
}

// TestAnAnswerComesBeforeTheEnd is about commands that are over at once: a client takes a channel that ends before
// its request is answered for a refusal.
func TestAnAnswerComesBeforeTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.seat("carol", talkativeMachine(t))
	needs(t, "sshd")
	client := w.login("carol")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 150 {
				s, err := client.NewSession()
				if err != nil {
					t.Error(err)
					return
				}
				if out, err := s.Output("echo one"); string(out) != "one\n" || err != nil {
					t.Errorf("%q, %v", out, err)
				}
			}
		})
	}
	all.Wait()
}
