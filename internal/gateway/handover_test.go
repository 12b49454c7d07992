package gateway_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/gateway"
	"github.com/dspool/dspool/internal/testkit"
)

func TestNewGatewayTakesOverAndOldConnectionsFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cl := w.login("alice")
	term := w.terminal(cl)
	ok(t, term.Shell())
	old := make(chan error, 1)
	stopOld := w.stop
	// People keep coming while the doors change hands, and nobody is turned away.
	over := make(chan struct{})
	var coming sync.WaitGroup
	for range 2 {
		coming.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				cl, err := w.client("bob", ssh.PublicKeys(w.signers["bob"]))
				if err != nil {
					t.Errorf("login %d: %v", n, err)
					return
				}
				if s, err := cl.NewSession(); err != nil || s.Run("true") != nil {
					t.Errorf("command %d: %v", n, err)
				}
				cl.Close()
			}
		})
	}
	stopNew := w.run(gateway.Limits{})
	w.stop = func() error {
		stopNew()
		return stopOld()
	}
	w.eventually("the old one has handed over", func() bool { return w.logged("doors handed over") })
	close(over)
	coming.Wait()
	if again := w.doorAddress(); again != w.door {
		t.Fatalf("the door moved from %s to %s", w.door, again)
	}
	t.Run("new logins work, with the same host key", func(t *testing.T) {
		for range 3 {
			w.want(w.ssh("alice", "--", "true"), nil)
		}
	})
	t.Run("the old connection lives", func(t *testing.T) {
		io.WriteString(term.in, "echo still-$((1+1))\n")
		w.eventually("the shell answers", func() bool { return strings.Contains(term.out.String(), "still-2") })
		w.server.direct(func(d *api.GatewayDirectives) {
			d.Tell = []api.Notice{{Connection: w.server.opened[0].Connection, Reason: testkit.Stated("hello from the server")}}
		})
		w.eventually("notices reach it", func() bool { return strings.Contains(term.out.String(), "hello from the server") })
	})
	t.Run("the old gateway leaves with its last connection", func(t *testing.T) {
		cl.Close()
		go func() { old <- stopOldAlone(w, stopOld) }()
		select {
		case err := <-old:
			ok(t, err)
		case <-time.After(waitForIt):
			t.Fatal("it stays")
		}
		w.want(w.ssh("bob", "--", "true"), nil)
	})
}

// stopOldAlone waits for the gateway to have ended by itself.
func stopOldAlone(w *world, stop func() error) error {
	w.eventually("it reports the end", func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return w.server.reports[w.server.opened[0].Connection].Ended
	})
	return stop()
}

func TestDoorsFollowTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cl := w.login("alice")
	w.server.direct(func(d *api.GatewayDirectives) {
		d.Doors = []dspool.Door{{Listen: "127.0.0.2:0", Protocol: dspool.ProtocolSSH, Pool: "gpu"}, {Listen: "127.0.0.3:0", Protocol: dspool.ProtocolTCP}}
	})
	w.eventually("the new door is open and the old one closed", func() bool {
		s, err := gateway.ReadStatus(context.Background(), w.state)
		if err != nil || len(s.Doors) != 1 || !strings.HasPrefix(s.Doors[0].Address, "127.0.0.2:") {
			return false
		}
		w.door = s.Doors[0].Address
		return true
	})
	s, err := cl.NewSession()
	ok(t, err)
	ok(t, s.Run("true")) // through a door that is closed
	other := w.login("bob")
	defer other.Close()
	w.server.until("the pool is the new door's", func() bool { return len(w.server.opened) == 2 && w.server.opened[1].DoorPool == "gpu" })
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := func(algorithm string) (got ssh.PublicKey) {
		_, err := ssh.Dial("tcp", w.door, &ssh.ClientConfig{User: "alice", HostKeyAlgorithms: []string{algorithm}, HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
			got = k
			return nil
		}})
		if got == nil {
			t.Fatal(err)
		}
		return got
	}
	ed, rsa := key(ssh.KeyAlgoED25519), key(ssh.KeyAlgoRSASHA512)
	t.Run("they stay the same after a restart, and nobody else can read them", func(t *testing.T) {
		ok(t, w.stop())
		w.stop = w.run(gateway.Limits{})
		w.door = w.doorAddress()
		if string(key(ssh.KeyAlgoED25519).Marshal()) != string(ed.Marshal()) || string(key(ssh.KeyAlgoRSASHA256).Marshal()) != string(rsa.Marshal()) {
			t.Fatal("another host key")
		}
		for _, name := range []string{"host_ed25519", "host_rsa"} {
			info, err := os.Stat(filepath.Join(w.state, "gateway", name))
			ok(t, err)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v", name, info.Mode())
			}
		}
	})
	t.Run("OpenSSH's client learns the other key by proof, whichever machine answers", func(t *testing.T) {
		known := filepath.Join(t.TempDir(), "known")
		for _, algorithm := range []string{"ssh-ed25519,rsa-sha2-512", "rsa-sha2-512,ssh-ed25519", "rsa-sha2-256,ssh-ed25519"} {
			os.Remove(known)
			flags := []string{"-o", "UserKnownHostsFile=" + known, "-o", "UpdateHostKeys=yes", "-o", "HostKeyAlgorithms=" + algorithm, "-o", "LogLevel=VERBOSE", "--", "true"}
			w.want(w.ssh("alice", flags...), nil) // the first login makes the host known, the second asks for proof
			_, errs, code := run(w.ssh("alice", flags...), nil)
			b, _ := os.ReadFile(known)
			if code != 0 || strings.Contains(errs, "bad signature") || strings.Count(string(b), "\n") != 2 {
				t.Errorf("%s: code %d, %s\nknows %s", algorithm, code, errs, b)
			}
		}
	})
	t.Run("a host certificate is enough", func(t *testing.T) {
		ca, _ := newKey(t)
		cert := &ssh.Certificate{Key: ed, CertType: ssh.HostCert, Serial: 1, ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: ssh.CertTimeInfinity}
		ok(t, cert.SignCert(randReader, ca))
		known := filepath.Join(t.TempDir(), "known")
		ok(t, os.WriteFile(known, []byte("@cert-authority * "+string(ssh.MarshalAuthorizedKey(ca.PublicKey()))), 0o600))
		strict := []string{"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + known, "--", "true"}
		login := func() int {
			_, _, code := run(w.ssh("alice", strict...), nil)
			return code
		}
		if login() == 0 {
			t.Fatal("it was trusted without a certificate")
		}
		w.server.direct(func(d *api.GatewayDirectives) { d.Trust.HostCert = string(ssh.MarshalAuthorizedKey(cert)) })
		w.eventually("the client trusts the certificate", func() bool { return login() == 0 })
		w.want(w.ssh("alice", "--", "true"), nil) // who knows the key goes on with it
	})
}

// Whoever comes while no gateway lives waits for the next one: the server holds the listening sockets.
func TestNobodyIsRefusedBetweenTwoGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.direct(func(d *api.GatewayDirectives) {
		d.Doors = append(d.Doors, dspool.Door{Listen: "127.0.0.2:0", Protocol: dspool.ProtocolSSH, Pool: "gpu"})
	})
	status := func(cond func(gateway.Status) bool) func() bool {
		return func() bool {
			s, err := gateway.ReadStatus(context.Background(), w.state)
			return err == nil && cond(s)
		}
	}
	w.eventually("both doors are open", status(func(s gateway.Status) bool { return len(s.Doors) == 2 }))
	type result struct {
		held gateway.Held
		err  error
	}
	holding := make(chan result, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		held, err := gateway.Hold(ctx, w.state)
		holding <- result{held, err}
	}()
	w.eventually("the sockets are held", status(func(s gateway.Status) bool { return s.Held == 1 }))
	ok(t, w.stop())
	var r result
	select {
	case r = <-holding:
	case <-time.After(waitForIt):
		t.Fatal("nobody is told that the gateway has ended")
	}
	ok(t, r.err)
	if len(r.held.Files) != 2 || len(r.held.Doors) != 2 {
		t.Fatalf("held: %+v", r.held)
	}
	type attempt struct {
		client *ssh.Client
		err    error
	}
	came := make(chan attempt, 1)
	go func() {
		cl, err := w.client("alice", ssh.PublicKeys(w.signers["alice"]))
		came <- attempt{cl, err}
	}()
	w.held = r.held
	w.stop = w.run(gateway.Limits{})
	select {
	case a := <-came:
		ok(t, a.err)
		a.client.Close()
	case <-time.After(waitForIt):
		t.Fatal("who came in between waits for ever")
	}
	s, err := gateway.ReadStatus(context.Background(), w.state)
	ok(t, err)
	if len(s.Doors) != 2 {
		t.Errorf("doors: %+v", s.Doors)
	}
}
