package gateway_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/testkit"
)

// held places sessions only when release is called.
func held(w *world, before ...api.SessionStep) (release func()) {
	ready := make(chan struct{})
	w.server.change(func() {
		w.server.place = func(o api.OpenSession, step func(api.SessionStep)) api.SessionStep {
			for _, s := range before {
				step(s)
			}
			<-ready
			return on(w.machine)(o, step)
		}
	})
	return func() { close(ready) }
}

// terminal is a person at a terminal, by the library.
type terminal struct {
	*ssh.Session
	in  io.WriteCloser
	out *syncBuffer

	ended chan struct{}
}

// Wait waits for the session's end and all of its output.
func (t *terminal) Wait() error {
	err := t.Session.Wait()
	<-t.ended
	return err
}

func (w *world) terminal(cl *ssh.Client) *terminal {
	w.Helper()
	s, err := cl.NewSession()
	ok(w, err)
	t := &terminal{Session: s, out: &syncBuffer{}}
	t.in, err = s.StdinPipe()
	ok(w, err)
	// Not Stdout: the library reads that only once the shell has been granted.
	out, err := s.StdoutPipe()
	ok(w, err)
	t.ended = make(chan struct{})
	go func() { io.Copy(t.out, out); close(t.ended) }()
	ok(w, s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}))
	return t
}

func (w *world) login(user string) *ssh.Client {
	w.Helper()
	cl, err := w.client(user, ssh.PublicKeys(w.signers[user]))
	ok(w, err)
	w.Cleanup(func() { cl.Close() })
	return cl
}

func TestHeldConnection(t *testing.T) {
	t.Parallel()
	t.Run("a terminal shows what happens, the place and the estimate, then the shell", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := held(w, api.SessionStep{Session: 7, Reason: testkit.Stated("starting lab-3\x1b[31m"), Position: 2, Estimate: dspool.Duration(20 * time.Second)})
		term := w.terminal(w.login("alice"))
		shell := make(chan error, 1)
		go func() { shell <- term.Shell() }()
		w.eventually("progress is shown", func() bool {
			out := term.out.String()
			return strings.Contains(out, "place 2 in the queue, about 20s to go, waited ") && strings.Contains(out, ": starting lab-3[31m")
		})
		io.WriteString(term.in, "echo typed-$((40+2)); exit 5\n")
		release()
		ok(t, <-shell)
		err := term.Wait()
		if exit, is := err.(*ssh.ExitError); !is || exit.ExitStatus() != 5 {
			t.Fatalf("ended with %v: %s", err, term.out)
		}
		if out := term.out.String(); !strings.Contains(out, "typed-42") || !strings.Contains(out, "\r\x1b[K") {
			t.Fatalf("got %q", out)
		}
	})
	t.Run("a command waits silently and keeps its output clean", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := held(w, api.SessionStep{Session: 7, Reason: testkit.Stated("starting lab-3")})
		cmd := w.ssh("alice", "--", "cat; echo out")
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("\x03in "), &out, &errs
		ok(t, cmd.Start())
		w.server.until("the session is asked for", func() bool { return len(w.server.opened) == 1 })
		time.AfterFunc(time.Second, release) // long enough for progress to have been shown
		ok(t, cmd.Wait())
		if out.String() != "\x03in out\n" || errs.Len() > 0 {
			t.Fatalf("out %q, err %q", out.String(), errs.String())
		}
	})
	t.Run("keepalives are answered in order, forwards wait", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := held(w)
		cl := w.login("alice")
		for range 3 {
			if _, _, err := cl.SendRequest("keepalive@openssh.com", true, nil); err != nil {
				t.Fatal(err)
			}
		}
		type answer struct {
			ok  bool
			err error
		}
		forward := make(chan answer, 1)
		go func() {
			good, _, err := cl.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
				Host string
				Port uint32
			}{"127.0.0.1", 0}))
			forward <- answer{good, err}
		}()
		release()
		if a := <-forward; a.err != nil || !a.ok {
			t.Fatalf("forward: %+v", a)
		}
	})
	t.Run("OpenSSH's client with keepalives and a forward outlasts the wait", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := held(w)
		cmd := w.ssh("alice", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", "-R", "127.0.0.1:0:127.0.0.1:9", "--", "echo through")
		var out bytes.Buffer
		cmd.Stdout = &out
		ok(t, cmd.Start())
		time.AfterFunc(4*time.Second, release)
		if err := cmd.Wait(); err != nil || out.String() != "through\n" {
			t.Fatalf("%v %q", err, out.String())
		}
	})
	t.Run("Ctrl-C leaves", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		defer held(w)()
		term := w.terminal(w.login("alice"))
		go term.Shell()
		w.eventually("progress is shown", func() bool { return strings.Contains(term.out.String(), "looking for a machine") })
		term.in.Write([]byte{3})
		w.eventually("the session ends", func() bool { return strings.Contains(term.out.String(), "you stopped waiting") })
	})
	t.Run("many requests do not stop the connection while it waits", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		release := held(w)
		cl := w.login("alice")
		term := w.terminal(cl)
		for range 200 {
			ok(t, term.WindowChange(40, 100))
		}
		_, _, err := cl.SendRequest("keepalive@openssh.com", true, nil)
		ok(t, err)
		release()
		ok(t, term.Start("stty size"))
		ok(t, term.Wait())
		if !strings.Contains(term.out.String(), "40 100") {
			t.Fatalf("got %q", term.out)
		}
	})
	t.Run("a refusal is told, with its hint, and exits with 254", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.server.change(func() {
			w.server.place = func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
				return api.SessionStep{Failed: dspool.Errorf(dspool.NotFound, "there is no pool gold").WithHint("choose lab")}
			}
		})
		_, errs, code := run(w.ssh("alice+gold", "--", "true"), nil)
		if code != 254 || errs != "dspool: there is no pool gold (choose lab)\n" {
			t.Fatalf("code %d, err %q", code, errs)
		}
		out, _, code := run(w.ssh("alice", "-tt"), strings.NewReader("x"))
		if code != 254 || !strings.Contains(out, "*** dspool: there is no pool gold (choose lab)\r\n") {
			t.Fatalf("code %d, out %q", code, out)
		}
	})
	t.Run("a server that restarts meanwhile is asked again", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		held(w)
		cmd := w.ssh("alice", "--", "echo done")
		var out bytes.Buffer
		cmd.Stdout = &out
		ok(t, cmd.Start())
		w.server.until("the session is asked for", func() bool { return len(w.server.opened) == 1 })
		w.server.stop()
		w.server.change(func() { w.server.place = on(w.machine) })
		w.server.start()
		if err := cmd.Wait(); err != nil || out.String() != "done\n" {
			t.Fatalf("%v %q", err, out.String())
		}
		w.server.change(func() {
			if a, b := w.server.opened[0].Connection, w.server.opened[1].Connection; a != b {
				t.Errorf("it is another connection now: %s, %s", a, b)
			}
		})
	})
}

func TestPoolIsChosenByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(w.ssh("alice+gpu", "--", "true"), nil)
	w.want(w.ssh("bob", "--", "true"), nil)
	w.server.change(func() {
		a, b := w.server.opened[0], w.server.opened[1]
		if a.User != "alice" || a.Pool != "gpu" || a.DoorPool != "lab" || b.User != "bob" || b.Pool != "" || b.DoorPool != "lab" {
			t.Errorf("asked for %+v and %+v", a, b)
		}
		if a.Connection == b.Connection || !strings.HasPrefix(a.From, "127.0.0.1:") || a.Auth != "key "+ssh.FingerprintSHA256(w.signers["alice"].PublicKey()) {
			t.Errorf("audit: %+v", a)
		}
	})
}

func TestSizeIsChosenByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, want := range map[string][3]string{
		"alice+gpu+big": {"alice", "gpu", "big"}, "alice++big": {"alice", "", "big"}, "bob+gpu": {"bob", "gpu", ""},
		"bob+" + strings.Repeat("p", 32) + "+" + strings.Repeat("s", 32): {"bob", strings.Repeat("p", 32), strings.Repeat("s", 32)},
	} {
		w.want(w.ssh(name, "--", "true"), nil)
		w.server.change(func() {
			o := w.server.opened[len(w.server.opened)-1]
			if got := [3]string{o.User, o.Pool, o.Size}; got != want || o.DoorPool != "lab" {
				t.Errorf("%s asks for %q of the door of %s", name, got, o.DoorPool)
			}
		})
	}
}

func TestServerAwayEndsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cl := w.login("alice")
	term := w.terminal(cl)
	ok(t, term.Shell())
	io.WriteString(term.in, "echo on-$((1+1))\n")
	w.eventually("the shell answers", func() bool { return strings.Contains(term.out.String(), "on-2") })
	w.server.stop()
	io.WriteString(term.in, "echo off-$((1+1))\n")
	w.eventually("it still answers", func() bool { return strings.Contains(term.out.String(), "off-2") })
	io.WriteString(term.in, "exit\n")
	ok(t, term.Wait())
	cl.Close()
	w.server.start()
	w.server.until("the end is reported afterwards", func() bool {
		for _, r := range w.server.reports {
			if r.Ended {
				return true
			}
		}
		return false
	})
}

func TestLoginWhileTheServerRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.stop()
	cmd := w.ssh("alice", "--", "echo in")
	var out bytes.Buffer
	cmd.Stdout = &out
	ok(t, cmd.Start())
	time.AfterFunc(time.Second, w.server.start)
	if err := cmd.Wait(); err != nil || out.String() != "in\n" {
		t.Fatalf("%v %q", err, out.String())
	}
}

func TestConnectionsAreReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(w.ssh("alice", "--", "wc -c; head -c 50000 /dev/zero"), strings.NewReader(strings.Repeat("x", 100000)))
	w.server.until("the end", func() bool {
		r := w.server.reports[w.server.opened[0].Connection]
		return r.Ended && r.Session == 7 && r.BytesIn == 100000 && r.BytesOut == 50007 && time.Since(r.LastInput) < time.Minute
	})
	term := w.terminal(w.login("bob"))
	ok(t, term.Shell())
	w.server.until("an open one is reported too", func() bool {
		r, found := w.server.reports[w.server.opened[1].Connection]
		return found && !r.Ended && r.BytesOut > 0
	})
}

func TestNoticesReachTerminals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	term := w.terminal(w.login("alice"))
	ok(t, term.Shell())
	w.eventually("the shell is there", func() bool { return term.out.String() != "" })
	id := w.server.opened[0].Connection
	w.server.direct(func(d *api.GatewayDirectives) {
		d.Tell = []api.Notice{{Connection: id, Reason: testkit.Stated("lab-1 drains\x1b[2J in 10m\n")}}
	})
	w.eventually("the notice", func() bool { return strings.Contains(term.out.String(), "\r\n*** dspool: lab-1 drains[2J in 10m \r\n") })
	w.server.direct(func(d *api.GatewayDirectives) {
		d.End = []api.Notice{{Connection: id, Reason: testkit.Stated("the session is closed")}}
	})
	err := term.Wait()
	if exit, is := err.(*ssh.ExitError); !is || exit.ExitStatus() != 254 || !strings.Contains(term.out.String(), "*** dspool: the session is closed\r\n") {
		t.Fatalf("%v %q", err, term.out)
	}
	w.server.until("the end says why", func() bool {
		r := w.server.reports[id]
		return r.Ended && testkit.Text(r.Why) == "the session is closed"
	})
}

func TestMachineDiesUnderASession(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	term := w.terminal(w.login("alice"))
	ok(t, term.Shell())
	w.eventually("the shell is there", func() bool { return term.out.String() != "" })
	w.machine.kill()
	err := term.Wait()
	if exit, is := err.(*ssh.ExitError); !is || exit.ExitStatus() != 254 || !strings.Contains(term.out.String(), "machine lab-1 went away") {
		t.Fatalf("%v %q", err, term.out)
	}
	w.server.until("the end is reported", func() bool { return w.server.reports[w.server.opened[0].Connection].Ended })
	next := startMachine(t, "lab-2", w.server.machines.PublicKey())
	w.server.change(func() { w.server.place = on(next) })
	if out := w.want(w.ssh("alice", "--", "echo again"), nil); out != "again\n" {
		t.Fatalf("got %q", out)
	}
}

func TestKillsAreNoLossOfTheMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ends := func(command string, code int) string {
		t.Helper()
		term := w.terminal(w.login("alice"))
		ok(t, term.Start(command))
		err := term.Wait()
		exit, is := err.(*ssh.ExitError)
		if !is || exit.ExitStatus() != code {
			t.Errorf("%s ended with %v, want %d: %q", command, err, code, term.out)
		}
		return term.out.String()
	}
	if out := ends("exec sh -c 'kill -9 $$'", 137); strings.Contains(out, "dspool") {
		t.Errorf("a kill that was not for memory: %q", out)
	}
	w.server.change(func() {
		w.server.killed = dspool.Why(dspool.WhyKilledMemory, dspool.ReasonParams{Bytes: 256 << 20})
	})
	for _, command := range []string{"exec sh -c 'kill -9 $$'", "exit 137"} {
		if out := ends(command, 137); !strings.Contains(out, "*** dspool: killed: out of memory (limit 256 MiB)\r\n") {
			t.Errorf("after %s it says %q", command, out)
		}
	}
	if out := ends("exit 3", 3); strings.Contains(out, "dspool") {
		t.Errorf("an end of its own: %q", out)
	}
	if out := ends("kill -9 $PPID; sleep 100", 254); !strings.Contains(out, "this login was ended on its machine: killed: out of memory (limit 256 MiB); log in again") || strings.Contains(out, "went away") {
		t.Errorf("when only the login's process dies it says %q", out)
	}
}

func TestNoLoginIsPreparedWhereMemoryRanOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(w.ssh("alice", "--", "true"), nil)
	w.eventually("the next login is prepared", func() bool { return w.machine.logins() == 1 })
	full := func(o api.OpenSession, step func(api.SessionStep)) api.SessionStep {
		last := on(w.machine)(o, step)
		last.Ready.Full = true
		return last
	}
	w.server.change(func() { w.server.place = full })
	before := w.server.asked()
	w.want(w.ssh("alice", "--", "true"), nil)
	w.eventually("what was prepared is dropped", func() bool { return w.machine.logins() == 0 })
	if n := w.server.asked() - before; n != 1 {
		t.Errorf("%d logins were made on the machine for one", n)
	}
}

func TestMachineGoneBeforeTheLoginGetsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone := startMachine(t, "gone", w.server.machines.PublicKey())
	gone.kill()
	w.server.change(func() {
		w.server.place = func(o api.OpenSession, step func(api.SessionStep)) api.SessionStep {
			w.server.change(func() { w.server.place = on(w.machine) })
			return on(gone)(o, step)
		}
	})
	if out := w.want(w.ssh("alice", "--", "echo elsewhere"), nil); out != "elsewhere\n" {
		t.Fatalf("got %q", out)
	}
}

func TestMachineWithAnotherHostKeyIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := startMachine(t, "evil", w.server.machines.PublicKey())
	w.server.change(func() {
		w.server.place = func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
			a := w.machine.access()
			a.Address = other.address
			return api.SessionStep{Session: 7, Ready: a}
		}
	})
	_, errs, code := run(w.ssh("alice", "--", "true"), nil)
	if code != 254 || !strings.Contains(errs, "host key is not the enrolled one") {
		t.Fatalf("code %d: %s", code, errs)
	}
}

func TestTerminalsAreRecordedWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.change(func() {
		w.server.place = func(api.OpenSession, func(api.SessionStep)) api.SessionStep {
			a := w.machine.access()
			a.Record = true
			return api.SessionStep{Session: 7, Ready: a}
		}
	})
	out, _, _ := run(w.ssh("alice", "-tt"), strings.NewReader("printf 'gr\\303\\274n-%s\\n' $((6*7)); exit\n"))
	if !strings.Contains(out, "is recorded") {
		t.Fatalf("the person is not told: %q", out)
	}
	w.want(w.ssh("alice", "--", "echo unrecorded"), nil)
	dir := filepath.Join(w.state, "recordings", "alice")
	var text []byte
	w.eventually("the recording is complete", func() bool {
		list, _ := os.ReadDir(dir)
		if len(list) != 1 || !strings.HasSuffix(list[0].Name(), w.server.opened[0].Connection+".cast") {
			return false
		}
		info, err := list[0].Info()
		ok(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Fatalf("mode %v", info.Mode())
		}
		text, err = os.ReadFile(filepath.Join(dir, list[0].Name()))
		ok(t, err)
		return bytes.Contains(text, []byte("grün-42"))
	})
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	var head struct{ Version, Width, Height int }
	ok(t, json.Unmarshal(lines[0], &head))
	if head.Version != 2 || head.Width < 1 {
		t.Fatalf("head %s", lines[0])
	}
	for _, l := range lines[1:] {
		var event []any
		if err := json.Unmarshal(l, &event); err != nil || len(event) != 3 {
			t.Fatalf("event %s", l)
		}
	}
}
