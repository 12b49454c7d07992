package agent_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/testkit"
)

// authority signs user certificates.
type authority struct {
	t      testing.TB
	signer ssh.Signer
}

func newAuthority(t testing.TB) authority {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	must(t, err)
	return authority{t, signer}
}

func (a authority) line() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(a.signer.PublicKey())))
}

func (a authority) certificate(life time.Duration, principals ...string) ssh.Signer {
	key := newAuthority(a.t).signer
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: principals,
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(life).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": ""}},
	}
	must(a.t, cert.SignCert(rand.Reader, a.signer))
	signer, err := ssh.NewCertSigner(cert, key)
	must(a.t, err)
	return signer
}

func (m *realMachine) login(user string, signer ssh.Signer, hostKey string) (*ssh.Client, error) {
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostKey))
	must(m.t, err)
	conn, err := m.dial(22)
	if err != nil {
		return nil, err
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, "machine", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(pinned), Timeout: waitLimit,
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// run returns what a command prints and its exit code.
func run(t testing.TB, c *ssh.Client, command string) (string, int) {
	t.Helper()
	s, err := c.NewSession()
	must(t, err)
	defer s.Close()
	out, err := s.CombinedOutput(command)
	var exit *ssh.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v; %s", command, err, out)
	}
	if exit != nil {
		return strings.TrimSpace(string(out)), exit.ExitStatus()
	}
	return strings.TrimSpace(string(out)), 0
}

// terminal is an interactive shell.
type terminal struct {
	*ssh.Session
	in  io.WriteCloser
	out *lockedBuffer
}

func openTerminal(t testing.TB, c *ssh.Client) *terminal {
	t.Helper()
	s, err := c.NewSession()
	must(t, err)
	must(t, s.RequestPty("xterm", 40, 200, ssh.TerminalModes{}))
	term := &terminal{Session: s, out: &lockedBuffer{}}
	s.Stdout = term.out
	term.in, err = s.StdinPipe()
	must(t, err)
	must(t, s.Shell())
	return term
}

// Real logins to a real sshd that a real init runs, told by a real agent. Its parts tell one
// story and follow each other.
func TestRealLogins(t *testing.T) {
	t.Parallel()
	s, ca := newServer(t), newAuthority(t)
	s.sshTrust = ca.line()
	m := startRealMachine(t, s, map[string]int{"alice": 20001, "bob": 20002, "carol": 20003})
	s.await("the machine enrolled", func() bool { return s.enrolments > 0 })
	alice := directive(1, "alice", 20001)
	alice.Groups = []api.GroupID{{Name: "lab", GID: 20500}}
	alice.Links = []api.Link{{Path: "team", Target: "/tmp/team"}, {Path: "notebooks/remote", Target: "/tmp/notebooks/alice", MakeTarget: true}}
	alice.Motd = "batch-1 of pool lab\nwelcome"
	login := func(t *testing.T, user string, signer ssh.Signer) *ssh.Client {
		t.Helper()
		c, err := m.login(user, signer, s.hostKey)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	refused := func(t *testing.T, user string, signer ssh.Signer) {
		t.Helper()
		if c, err := m.login(user, signer, s.hostKey); err == nil {
			out, code := run(t, c, "id")
			c.Close()
			t.Errorf("%s got in: %s, %d", user, out, code)
		} else if !strings.Contains(err.Error(), "unable to authenticate") && !strings.Contains(err.Error(), "EOF") {
			t.Errorf("%s: %v", user, err)
		}
	}
	hour := ca.certificate(time.Hour, "alice")
	s.seat(alice)
	if r := s.open(1); testkit.Text(r.Failed) != "" {
		t.Fatalf("%+v", r)
	}

	t.Run("a session lets its user in, with account, groups and limits", func(t *testing.T) {
		c := login(t, "alice", hour)
		for command, want := range map[string]string{
			"id -un; id -u; id -Gn":          "alice\n20001\nalice lab",
			"pwd":                            "/home/alice",
			"ulimit -c":                      "0",
			"cat /proc/self/oom_score_adj":   "500",
			"readlink team notebooks/remote": "/tmp/team\n/tmp/notebooks/alice",
			"ls -ld /tmp/notebooks/alice | cut -c1-10; test -O /tmp/notebooks/alice && echo mine": "drwx------\nmine",
			"cat /proc/self/cgroup | grep -c dspool-slot-user-20001":                              "4",
		} {
			if out, code := run(t, c, command); out != want || code != 0 {
				t.Errorf("%s: %q, exit code %d", command, out, code)
			}
		}
		if out, code := run(t, c, "exit 7"); out != "" || code != 7 {
			t.Errorf("a command prints %q and exits with %d", out, code)
		}
	})
	t.Run("a terminal is greeted", func(t *testing.T) {
		term := openTerminal(t, login(t, "alice", hour))
		m.await("greeting", func() bool { return strings.Contains(term.out.String(), "batch-1 of pool lab\r\nwelcome\r\n") })
		s.session(1, "active by its terminal", func(r api.SessionReport) bool {
			return r.Active && strings.HasPrefix(testkit.Text(r.Activity), "input on terminal pts/")
		})
	})
	t.Run("sftp works", func(t *testing.T) {
		sess, err := login(t, "alice", hour).NewSession()
		must(t, err)
		defer sess.Close()
		in, err := sess.StdinPipe()
		must(t, err)
		out, err := sess.StdoutPipe()
		must(t, err)
		must(t, sess.RequestSubsystem("sftp"))
		_, err = in.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}) // SSH_FXP_INIT, version 3
		must(t, err)
		head := make([]byte, 9)
		if _, err := io.ReadFull(out, head); err != nil || head[4] != 2 {
			t.Errorf("sftp answers %v, %v", head, err)
		}
	})
	t.Run("nobody else gets in", func(t *testing.T) {
		for claim, who := range map[string]struct {
			user   string
			signer ssh.Signer
		}{
			"a bare key":                          {"alice", newAuthority(t).signer},
			"another authority's certificate":     {"alice", newAuthority(t).certificate(time.Hour, "alice")},
			"an expired certificate":              {"alice", ca.certificate(-time.Minute, "alice")},
			"another user's certificate":          {"alice", ca.certificate(time.Hour, "bob")},
			"a user without a session":            {"bob", ca.certificate(time.Hour, "bob")},
			"root":                                {"root", ca.certificate(time.Hour, "root")},
			"root by a user's certificate":        {"root", hour},
			"a name that is a path to principals": {"../principals/alice", hour},
			"a name of the image":                 {"daemon", ca.certificate(time.Hour, "daemon", "alice")},
		} {
			t.Run(claim, func(t *testing.T) { refused(t, who.user, who.signer) })
		}
	})
	t.Run("many at once get in", func(t *testing.T) {
		errs := make(chan error, 30)
		for range cap(errs) {
			go func() {
				c, err := m.login("alice", hour, s.hostKey)
				if err == nil {
					c.Close()
				}
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})

	// Bob's session is for what lives in one; without a terminal, whose input would count.
	bob := directive(2, "bob", 20002)
	s.seat(bob)
	s.open(2)
	s.seat(directive(3, "carol", 20003))
	s.open(3)
	bobs := ca.certificate(time.Hour, "bob")
	quiet := func(what string) {
		t.Helper()
		s.session(2, what, func(r api.SessionReport) bool {
			return !r.Active && strings.HasPrefix(testkit.Text(r.Activity), "nothing runs")
		})
	}
	activity := func(t *testing.T, prefix string) {
		t.Helper()
		s.session(2, prefix, func(r api.SessionReport) bool { return r.Active && strings.HasPrefix(testkit.Text(r.Activity), prefix) })
	}
	t.Run("an idle shell is no activity", func(t *testing.T) {
		sess, err := login(t, "bob", bobs).NewSession()
		must(t, err)
		_, err = sess.StdinPipe()
		must(t, err)
		must(t, sess.Start("exec bash"))
		defer sess.Close()
		m.await("the shell", func() bool { return len(m.find("bash ")) > 0 })
		quiet("an idle shell")
	})
	for _, c := range []struct{ claim, start, reason, stop string }{
		{"what nohup left behind lives", "nohup sleep 1000 >/dev/null 2>&1 &", "sleep runs in the background", "pkill sleep"},
		{"a detached tmux with a program lives", "tmux new-session -d 'sleep 1000'", "sleep runs in tmux", "tmux kill-server"},
		{"a busy process is named with its share", "nohup python3 -c 'while True: pass' >/dev/null 2>&1 &", "python3 uses ", "pkill python3"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			cl, err := m.login("bob", bobs, s.hostKey)
			must(t, err)
			if out, code := run(t, cl, c.start); code != 0 {
				t.Skipf("NOT TESTED: %s: %s", c.start, out)
			}
			cl.Close() // nothing of it hangs on the connection
			activity(t, c.reason)
			run(t, login(t, "bob", bobs), c.stop)
			quiet("after " + c.stop)
		})
	}
	t.Run("out of memory is told", func(t *testing.T) {
		c := login(t, "bob", bobs)
		term := openTerminal(t, c)
		defer term.Close()
		_, err := term.in.Write([]byte("head -c 300000000 /dev/zero | tail\n"))
		must(t, err)
		m.await("the terminal told", func() bool { return strings.Contains(term.out.String(), "[dspool] out of memory (limit 128 MiB)") })
		s.session(2, "memory", func(r api.SessionReport) bool {
			return strings.Contains(testkit.Text(r.Activity), "out of memory (limit 128 MiB)")
		})
		if out, _ := run(t, c, "echo alive"); out != "alive" {
			t.Errorf("the session after it: %q", out)
		}
	})
	t.Run("killing agent and sshd disturbs nobody", func(t *testing.T) {
		c := login(t, "alice", hour)
		term := openTerminal(t, c)
		old, err := os.ReadFile(filepath.Join(m.dir, "agent.pid"))
		must(t, err)
		listeners := m.find("sshd: /usr/sbin/sshd -D")
		if len(listeners) != 1 {
			t.Fatalf("sshd listens in %v", listeners)
		}
		agents := m.find("/proc/self/exe")
		if len(agents) != 1 {
			t.Fatalf("agents %v", agents)
		}
		must(t, syscall.Kill(agents[0], syscall.SIGKILL))
		must(t, syscall.Kill(listeners[0], syscall.SIGKILL))
		s.mu.Lock()
		clear(s.sessions)
		s.mu.Unlock()
		m.await("a new agent", func() bool {
			pid, _ := os.ReadFile(filepath.Join(m.dir, "agent.pid"))
			return len(pid) > 0 && !bytes.Equal(pid, old)
		})
		m.await("logins again", func() bool {
			c, err := m.login("alice", hour, s.hostKey)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		_, err = term.in.Write([]byte("echo still $((6*7))\n"))
		must(t, err)
		m.await("the old terminal", func() bool { return strings.Contains(term.out.String(), "still 42") })
		s.open(1)
		s.open(2)
	})
	t.Run("a session that is closed leaves nothing and lets nobody in", func(t *testing.T) {
		c := login(t, "alice", hour)
		term := openTerminal(t, c)
		run(t, c, "nohup setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 &")
		m.await("the stubborn process", func() bool { return len(m.find("sh -c trap")) == 1 })
		// An attempt of the same user is none of the session's business.
		s.put(api.AttemptDirective{ID: 9, Job: 9, Index: 9}, api.TaskSpec{
			Job: 9, Account: api.Account{User: "alice", UID: 20001, GID: 20001, Home: "/home/alice"}, Dir: "/home/alice/jobs", Command: []string{"sleep", "1001"}, Count: 1,
			Request: dspool.Resources{CPUs: 1, Memory: 64 << 20},
		})
		s.running(9)
		s.seat(closing(alice))
		s.closed(1)
		ended := make(chan error, 1)
		go func() { ended <- term.Wait() }()
		select {
		case <-ended:
		case <-time.After(waitLimit):
			t.Error("the terminal lives on")
		}
		if !strings.Contains(term.out.String(), "[dspool] This session ends: idle for an hour") {
			t.Errorf("the terminal was not told: %q", term.out.String())
		}
		if left := m.find("sh -c trap"); len(left) > 0 {
			t.Errorf("%v live on", left)
		}
		if len(m.find("sleep 1001")) != 1 {
			t.Error("the attempt was ended with the session")
		}
		refused(t, "alice", hour)
		if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.cgroup + "/dspool-slot-user-20001-*"); len(dirs) > 0 {
			t.Errorf("cgroups left: %v", dirs)
		}
	})
	t.Run("a fork bomb stays in its session and ends with it", func(t *testing.T) {
		c, err := login(t, "bob", bobs).NewSession()
		must(t, err)
		defer c.Close()
		must(t, c.Start("exec bash -c 'b() { b | b & }; b; sleep 1000'"))
		m.await("the bomb", func() bool {
			text, _ := os.ReadFile("/sys/fs/cgroup/pids/" + m.cgroup + "/dspool-slot-user-20002-2/pids.current")
			n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			return n > 50
		})
		if out, _ := run(t, login(t, "carol", ca.certificate(time.Hour, "carol")), "echo fine"); out != "fine" {
			t.Errorf("beside it: %q", out)
		}
		s.seat(closing(bob))
		s.closed(2)
		if left := m.find("bash -c b()"); len(left) > 0 {
			t.Errorf("%d processes live on", len(left))
		}
	})
	t.Run("the same user comes back", func(t *testing.T) {
		again := alice
		again.ID, again.Groups = 5, nil
		s.seat(again)
		s.open(5)
		if out, _ := run(t, login(t, "alice", hour), "id -Gn"); out != "alice" {
			t.Errorf("groups %q", out)
		}
	})
	t.Run("what cannot be opened says why", func(t *testing.T) {
		s.seat(closing(directive(3, "carol", 20003)))
		s.closed(3)
		for i, c := range []struct {
			d    func(*api.SessionDirective)
			want string
		}{
			{func(d *api.SessionDirective) { d.User = "daemon" }, "the image has its own daemon"},
			{func(d *api.SessionDirective) { d.User = "../x" }, "user name"},
			{func(d *api.SessionDirective) { d.UID = 0 }, "below 20000"},
			{func(d *api.SessionDirective) { d.Groups = []api.GroupID{{Name: "sudo", GID: 27}} }, "below 20000"},
			{func(d *api.SessionDirective) { d.Groups = []api.GroupID{{Name: "audio", GID: 20600}} }, "the image has its own group audio"},
			{func(d *api.SessionDirective) { d.Home = "/home/nowhere" }, "the home /home/nowhere of carol is not on the machine"},
			{func(d *api.SessionDirective) { d.Request = dspool.Resources{} }, "asks for"},
		} {
			d := directive(int64(20+i), "carol", 20003)
			c.d(&d)
			s.seat(d)
			if r := s.closed(d.ID); !strings.Contains(testkit.Text(r.Failed), c.want) {
				t.Errorf("%s: %q", strconv.Quote(c.want), testkit.Text(r.Failed))
			}
		}
	})
}

// What a login costs until its command has ended, and how much of that is entering the session.
func BenchmarkLogin(b *testing.B) {
	s, ca := newServer(b), newAuthority(b)
	s.sshTrust = ca.line()
	m := startRealMachine(b, s, map[string]int{"alice": 20001})
	s.seat(directive(1, "alice", 20001))
	s.open(1)
	cert := ca.certificate(time.Hour, "alice")
	measure := func(b *testing.B) {
		for b.Loop() {
			c, err := m.login("alice", cert, s.hostKey)
			must(b, err)
			run(b, c, "exit 0")
			c.Close()
		}
	}
	b.Run("into a session", measure)
	// The same without the helper, which in a machine nothing does.
	service := filepath.Join("/proc", strconv.Itoa(m.cmd.Process.Pid), "root/etc/pam.d/sshd")
	text, err := os.ReadFile(service)
	must(b, err)
	must(b, os.WriteFile(service, bytes.ReplaceAll(text, []byte("session  required pam_exec.so"), []byte("#")), 0o644))
	b.Run("without one", measure)
}
