package gateway_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool/api"
	"github.com/dspool/dspool/internal/gateway"
)

// waitForIt is how long anything may take that a test waits for.
const waitForIt = 20 * time.Second

// world is a gateway between a stub server, real machines and real clients.
type world struct {
	testing.TB
	state   string
	server  *stub
	machine *machine
	door    string
	dir     string // of the clients' files
	log     *syncBuffer
	stop    func() error
	held    gateway.Held      // what the next gateway begins with
	keys    map[string]string // private key files by user
	signers map[string]ssh.Signer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newWorld(t testing.TB, limits ...gateway.Limits) *world {
	t.Helper()
	w := &world{TB: t, state: t.TempDir(), dir: t.TempDir(), log: &syncBuffer{}, keys: map[string]string{}, signers: map[string]ssh.Signer{}}
	w.server = startStub(t, w.state)
	w.machine = startMachine(t, "lab-1", w.server.machines.PublicKey())
	w.server.place = on(w.machine)
	var l gateway.Limits
	if len(limits) > 0 {
		l = limits[0]
	}
	w.stop = w.run(l)
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Errorf("gateway: %v", err)
		}
		if t.Failed() {
			t.Logf("gateway's log:\n%s", tail(w.log.String(), 3000))
		}
	})
	w.door = w.doorAddress()
	for user := range testUsers {
		w.addKey(user)
	}
	return w
}

// run starts a gateway and returns what stops it and waits for it.
func (w *world) run(l gateway.Limits) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- gateway.Run(ctx, gateway.Options{
			StateDir: w.state, Version: "test", Limits: l, Held: w.held, Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
	}()
	var once sync.Once
	var err error
	return func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(waitForIt):
				err = errors.New("it does not stop")
			}
		})
		return err
	}
}

// doorAddress waits until the door is open.
func (w *world) doorAddress() (address string) {
	w.Helper()
	w.eventually("the door opens", func() bool {
		s, err := gateway.ReadStatus(context.Background(), w.state)
		if err != nil || len(s.Doors) == 0 || s.Doors[0].Address == "" {
			return false
		}
		address = s.Doors[0].Address
		return true
	})
	return address
}

// eventually asks again until cond holds; for what gives no signal.
func (w *world) eventually(what string, cond func() bool) {
	w.Helper()
	deadline := time.Now().Add(waitForIt)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			w.Fatalf("waited %s in vain: %s", waitForIt, what)
		}
		<-tick.C
	}
}

func (w *world) addKey(user string) {
	w.Helper()
	signer, key := newKey(w)
	w.signers[user] = signer
	w.keys[user] = w.writeKey(user, key)
	w.server.change(func() {
		w.server.users[user].keys = append(w.server.users[user].keys, ssh.FingerprintSHA256(signer.PublicKey()))
	})
}

func (w *world) writeKey(name string, key crypto.Signer) string {
	w.Helper()
	path := filepath.Join(w.dir, "id_"+name)
	writeKey(w, path, key)
	return path
}

// certify writes a user certificate beside the key of user and returns the key's path.
func (w *world) certify(ca ssh.Signer, name string, change func(*ssh.Certificate)) string {
	w.Helper()
	signer, key := newKey(w)
	cert := &ssh.Certificate{
		Key: signer.PublicKey(), Serial: 42, CertType: ssh.UserCert, KeyId: name, ValidPrincipals: []string{"alice"},
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
		Permissions: ssh.Permissions{Extensions: allExtensions(), CriticalOptions: map[string]string{}},
	}
	change(cert)
	if len(cert.ValidPrincipals) > 0 {
		ok(w, cert.SignCert(rand.Reader, ca))
	} else { // which the library does not sign
		cert.Nonce, cert.SignatureKey = make([]byte, 32), ca.PublicKey()
		unsigned := cert.Marshal()
		var err error
		cert.Signature, err = ca.Sign(rand.Reader, unsigned[:len(unsigned)-4]) // without the length of no signature
		ok(w, err)
	}
	path := w.writeKey(name, key)
	ok(w, os.WriteFile(path+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o600))
	return path
}

// options are what every OpenSSH client here is called with.
func (w *world) options(key string) []string {
	_, port, _ := net.SplitHostPort(w.door)
	return []string{
		"-F", "none", "-o", "Port=" + port, "-o", "IdentityFile=" + key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + filepath.Join(w.dir, "known_hosts"), "-o", "GlobalKnownHostsFile=none", "-o", "LogLevel=ERROR",
	}
}

// ssh runs OpenSSH's client as a user.
func (w *world) ssh(user string, args ...string) *exec.Cmd {
	w.Helper()
	return w.sshWith(w.keys[strings.Split(user, "+")[0]], user, args...)
}

func (w *world) sshWith(key, user string, args ...string) *exec.Cmd {
	w.Helper()
	flags, rest := args, []string{}
	for i, a := range args {
		if a == "--" {
			flags, rest = args[:i], args[i+1:]
			break
		}
	}
	// The client takes the first value of an option, so the test's come first.
	argv := slices.Concat(flags, w.options(key), []string{"-l", user, "127.0.0.1"})
	cmd := exec.CommandContext(deadline(w), needs(w, "ssh"), append(argv, rest...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*waitForIt)
	t.Cleanup(cancel)
	return ctx
}

// run runs a command and returns its output, error output and exit code.
func run(cmd *exec.Cmd, stdin io.Reader) (out, errs string, code int) {
	var o, e bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &o, &e
	err := cmd.Run()
	code = cmd.ProcessState.ExitCode()
	if err != nil && code == 0 {
		code = -1
	}
	return o.String(), e.String(), code
}

// want runs a command that must succeed.
func (w *world) want(cmd *exec.Cmd, stdin io.Reader) string {
	w.Helper()
	return printed(w, cmd, stdin)
}

// printed is the output of a command that must succeed.
func printed(t testing.TB, cmd *exec.Cmd, stdin io.Reader) string {
	t.Helper()
	out, errs, code := run(cmd, stdin)
	if code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", strings.Join(cmd.Args, " "), code, out, errs)
	}
	return out
}

// client logs in with the library instead of OpenSSH.
func (w *world) client(user string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", w.door, &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: waitForIt})
}

// seat places the sessions of one user on another machine.
func (w *world) seat(user string, m *api.MachineAccess) {
	w.server.change(func() {
		others := w.server.place
		w.server.place = func(o api.OpenSession, step func(api.SessionStep)) api.SessionStep {
			if o.User == user {
				return api.SessionStep{Session: 8, Ready: m}
			}
			return others(o, step)
		}
	})
}

func (w *world) logged(text string) bool { return strings.Contains(w.log.String(), text) }

var randReader = rand.Reader

func gatewayLimits(grace time.Duration) gateway.Limits { return gateway.Limits{Grace: grace} }
