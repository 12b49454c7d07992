package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// asking is a connection of a client that calls itself something, and what the door asks of it.
type asking struct {
	ssh.Conn
	reqs <-chan *ssh.Request // global ones; the library holds the few that come
}

// as logs in with a client of a version.
func (w *world) as(version, user string) *asking {
	w.Helper()
	needs(w, "sshd")
	c, err := net.Dial("tcp", w.door)
	ok(w, err)
	conn, chans, reqs, err := ssh.NewClientConn(c, w.door, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(w.signers[user])}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), ClientVersion: version,
	})
	ok(w, err)
	w.Cleanup(func() { conn.Close() })
	go func() {
		for ch := range chans {
			ch.Reject(ssh.Prohibited, "no")
		}
	}()
	return &asking{conn, reqs}
}

// soFar are the requests that came before an answer that is asked for now.
func (a *asking) soFar(t *testing.T) (list []string) {
	t.Helper()
	if _, _, err := a.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case req := <-a.reqs:
			list = append(list, req.Type)
		default:
			return list
		}
	}
}

// exec runs a command in a channel of its own, and returns the channel and the names of the requests that come.
func (a *asking) exec(t *testing.T, command string) (ssh.Channel, <-chan string) {
	t.Helper()
	ch, reqs, err := a.OpenChannel("session", nil)
	ok(t, err)
	names := make(chan string, 100)
	go func() {
		defer close(names)
		for req := range reqs {
			req.Reply(false, nil)
			names <- req.Type
		}
	}()
	if done, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Line string }{command})); !done || err != nil {
		t.Fatal(done, err)
	}
	return ch, names
}

// dial opens a forward to a port of loopback.
func (a *asking) dial(port int) (ssh.Channel, error) {
	ch, reqs, err := a.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host string
		Port uint32
		From string
		At   uint32
	}{"127.0.0.1", uint32(port), "127.0.0.1", 1}))
	if err == nil {
		go ssh.DiscardRequests(reqs)
	}
	return ch, err
}

// What OpenSSH's server keeps for clients that are OpenSSH, the door does: others leave over it.
func TestOnlyOpenSSHIsToldWhatOnlyItKnows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.seat("carol", talkativeMachine(t))
	for version, itself := range map[string]bool{"SSH-2.0-OpenSSH_10.5": true, "SSH-2.0-OpenSSH_for_Windows_9.5": true, "SSH-2.0-libssh_0.12.0": false, "SSH-2.0-Go": false} {
		t.Run(version, func(t *testing.T) {
			a := w.as(version, "carol")
			if told := slices.Contains(a.soFar(t), "hostkeys-00@openssh.com"); told != itself {
				t.Errorf("told of host keys: %v", told)
			}
			ch, names := a.exec(t, "echo one")
			_, err := io.ReadAll(ch)
			ok(t, err)
			var got []string
			for name := range names {
				got = append(got, name)
			}
			want := []string{"news@example.org", "exit-status"}
			if itself {
				want = []string{"news@example.org", "eow@openssh.com", "exit-status"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("a command's machine says %q", got)
			}
		})
	}
}

func TestWhatTheBannerMakesOpenSSHDoWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("a machine's sshd says when a command takes no more input", func(t *testing.T) {
		ch, names := w.as("SSH-2.0-OpenSSH_9.9", "alice").exec(t, "exec <&-; echo closed; exec sleep 1000")
		defer ch.Close()
		_, err := io.ReadFull(ch, make([]byte, len("closed\n")))
		ok(t, err)
		_, err = io.WriteString(ch, "for nobody")
		ok(t, err)
		select {
		case name := <-names:
			if name != "eow@openssh.com" {
				t.Fatalf("it says %s", name)
			}
		case <-time.After(waitForIt):
			t.Fatal("it says nothing")
		}
	})
	t.Run("after no-more-sessions there are none, but forwards", func(t *testing.T) {
		a := w.as("SSH-2.0-OpenSSH_9.9", "alice")
		ch, _ := a.exec(t, "cat")
		defer ch.Close()
		_, _, err := a.SendRequest("no-more-sessions@openssh.com", false, nil)
		ok(t, err)
		a.soFar(t) // the gateway has it
		if _, _, err := a.OpenChannel("session", nil); err == nil || !strings.Contains(err.Error(), "no more sessions") {
			t.Fatalf("got %v", err)
		}
		_, port, _ := net.SplitHostPort(echo(t, "tcp", "127.0.0.1:0").Addr().String())
		at, err := strconv.Atoi(port)
		ok(t, err)
		c, err := a.dial(at)
		ok(t, err)
		_, err = io.WriteString(c, "hello")
		ok(t, errors.Join(err, c.CloseWrite()))
		if got, err := io.ReadAll(c); string(got) != "echo hello" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	})
	t.Run("no-more-sessions does not wait for what is opened after it", func(t *testing.T) {
		release := held(w)
		a := w.as("SSH-2.0-OpenSSH_9.9", "alice")
		_, _, err := a.SendRequest("no-more-sessions@openssh.com", false, nil)
		ok(t, err)
		var opening sync.WaitGroup
		opening.Go(func() {
			if _, err := a.dial(full(t)); err == nil {
				t.Error("it opened")
			}
		})
		a.soFar(t) // the gateway has all of that
		release()
		if listens, _, err := a.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{"127.0.0.1", 0})); !listens || err != nil {
			t.Fatalf("the next request: %v %v", listens, err)
		}
		a.Close()
		opening.Wait()
	})
	t.Run("keys are exchanged anew under way, in both directions", func(t *testing.T) {
		const size = 8 << 20
		cmd := w.ssh("alice", "-v", "-o", "RekeyLimit=1M", "--", "tee >(wc -c >&2)")
		cmd.WaitDelay = waitForIt
		out, errs, code := run(cmd, io.LimitReader(zeros{}, size))
		if code != 0 || len(out) != size {
			t.Fatalf("code %d, %d bytes\n%s", code, len(out), tail(errs, 2000))
		}
		if n := strings.Count(errs, "SSH2_MSG_NEWKEYS received"); n < 5 {
			t.Fatalf("keys were exchanged %d times", n)
		}
	})
	t.Run("a key that an agent keeps for the door comes in", func(t *testing.T) {
		dir := t.TempDir()
		known := filepath.Join(dir, "known_hosts")
		key, err := os.ReadFile(filepath.Join(w.state, "gateway", "host_ed25519.pub"))
		ok(t, err)
		_, port, _ := net.SplitHostPort(w.door)
		ok(t, os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.1]:%s %s", port, key), 0o600))
		socket := startAgent(t)
		env := append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		add := exec.Command(needs(t, "ssh-add"), "-q", "-H", known, "-h", "[127.0.0.1]:"+port, w.keys["alice"])
		add.Env = env
		printed(t, add, nil)
		cmd := exec.CommandContext(deadline(t), needs(t, "ssh"), "-F", "none", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile="+known, "-p", port, "alice@127.0.0.1", "id -un")
		cmd.Env = env
		if got := printed(t, cmd, nil); got != "alice\n" {
			t.Fatalf("got %q", got)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// full is a port at which connecting hangs: nobody accepts, and there is no more room to wait in.
func full(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	ok(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	ok(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	ok(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	ok(t, err)
	port := name.(*syscall.SockaddrInet4).Port
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) // the one that there is room for
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	return port
}
