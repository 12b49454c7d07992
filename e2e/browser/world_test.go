package browser_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/gateway"
)

// Named timeouts: how long what always happens may take on a busy machine.
const (
	startTimeout = 60 * time.Second // server answers, gateway keeps its doors
	imageTimeout = 15 * time.Minute // images are built; afterwards they are cached
	hubTimeout   = 90 * time.Second // JupyterHub runs, on a machine that is made for it
	stopTimeout  = 30 * time.Second // server ends after SIGTERM
	sshTimeout   = 60 * time.Second // one command over SSH, from zero
	pollEvery    = 50 * time.Millisecond
)

// password is everybody's.
const password = "correct horse battery"

// people are the users beside those of the example; every test says whose story it is.
var people = []string{"ada", "grace", "bob", "carol", "dave", "erin", "frank", "heidi", "ivan", "kim", "lee"}

// world is one server with its state directory.
type world struct {
	work, bin, state, config, log string
	web, door                     string // addresses of the doors
	portal, hub                   string // URLs, as people write them
	installation                  string
	cmd                           *exec.Cmd
	done                          chan struct{} // closed when cmd has ended
	mu                            sync.Mutex    // held while the server is started or ended
}

func newWorld() (*world, error) {
	work, err := os.MkdirTemp("", "dspool-browser-")
	if err != nil {
		return nil, err
	}
	w := &world{work: work, bin: filepath.Join(work, "bin"), state: filepath.Join(work, "state"), config: filepath.Join(work, "team.yaml"), log: filepath.Join(work, "server.log")}
	if err := os.Chmod(work, 0o755); err != nil {
		return w, err
	}
	return w, w.build()
}

// build makes the program, always afresh, and takes the pinned runc that `make build` made.
func (w *world) build() error {
	if err := os.Mkdir(w.bin, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("../../scripts/go", "build", "-trimpath", "-o", filepath.Join(w.bin, "dspool"), "../../cmd/dspool")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	made, err := filepath.Abs("../../bin/runc")
	if err != nil {
		return err
	}
	if _, err := os.Stat(made); err != nil {
		return fmt.Errorf("%w: run `make build` first", err)
	}
	return os.Symlink(made, filepath.Join(w.bin, "runc"))
}

// configure writes the example with ports of its own: two servers with the embedded default cannot
// live on one host at once, and somebody may use the pool of this host.
func (w *world) configure() error {
	text, err := os.ReadFile("../../examples/team.yaml")
	if err != nil {
		return err
	}
	w.web, w.door = freeAddress(), freeAddress()
	for old, now := range map[string]string{"127.0.0.1:8443": "127.0.0.1:0", "listen: 127.0.0.1:2222": "listen: " + w.door, "listen: 127.0.0.1:8000": "listen: " + w.web} {
		if n := bytes.Count(text, []byte(old)); n == 0 {
			return fmt.Errorf("examples/team.yaml no longer says %q", old)
		}
		text = bytes.ReplaceAll(text, []byte(old), []byte(now))
	}
	_, port, _ := net.SplitHostPort(w.web)
	w.portal, w.hub = "http://localhost:"+port, "http://hub.localhost:"+port
	return os.WriteFile(w.config, text, 0o644)
}

// freeAddress is an address that nobody listens on now, with a port that no outgoing connection gets:
// a door must say its port, because browsers are sent there.
func freeAddress() string {
	for {
		n, _ := rand.Int(rand.Reader, big.NewInt(10_000))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+n.Int64()))
		if err == nil {
			l.Close()
			return l.Addr().String()
		}
	}
}

// start makes the pool and waits until JupyterHub runs.
func (w *world) start() error {
	if err := w.configure(); err != nil {
		return err
	}
	if err := w.serve(); err != nil {
		return err
	}
	for _, image := range []string{"JupyterHub", "UbuntuDSVM"} {
		ctx, cancel := context.WithTimeout(context.Background(), imageTimeout)
		defer cancel()
		if out, err := w.command(ctx, "dspool", "image", "build", image).CombinedOutput(); err != nil {
			return fmt.Errorf("build image %s: %w\n%s", image, err, out)
		}
	}
	if _, err := w.awaitGateway(func(g gateway.Status) bool { return true }); err != nil {
		return err
	}
	return eventually(hubTimeout, func() error {
		app, err := w.app(dspool.HubUser)
		if err == nil && app.State != dspool.AppRunning {
			err = fmt.Errorf("JupyterHub is %s: %s", app.State, app.Reason)
		}
		return err
	})
}

var servingLine = regexp.MustCompile(`msg=serving .*installation=(\w+)`)

// serve starts the server and waits until it serves.
func (w *world) serve() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	log, err := os.OpenFile(w.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Seek(0, 2)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(w.bin, "dspool"), "server", "--config", w.config, "--state-dir", w.state,
		"--image-cache", cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), "/var/cache/dspool/images"))
	cmd.Env = append(os.Environ(), "PATH="+w.bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	w.cmd, w.done = cmd, done
	return eventually(startTimeout, func() error {
		text, err := os.ReadFile(w.log)
		if err != nil {
			return err
		}
		m := servingLine.FindSubmatch(text[before:])
		if m == nil {
			select {
			case <-done:
				return final{fmt.Errorf("the server has ended:\n%s", text[before:])}
			default:
				return fmt.Errorf("the server does not serve:\n%s", text[before:])
			}
		}
		w.installation = string(m[1])
		return nil
	})
}

// end ends the server with a signal and waits for it; machines and doors live on.
func (w *world) end(sig syscall.Signal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cmd == nil {
		return nil
	}
	if err := w.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-w.done:
		w.cmd = nil
		return nil
	case <-time.After(stopTimeout):
		_ = w.cmd.Process.Kill()
		<-w.done
		w.cmd = nil
		return fmt.Errorf("the server did not end within %s of %v", stopTimeout, sig)
	}
}

// remove takes everything from the host; after a failure it tells the story first.
func (w *world) remove(failed bool) error {
	if failed {
		w.tell()
	}
	errs := []error{w.end(syscall.SIGTERM)}
	if _, err := os.Stat(filepath.Join(w.state, "state.db")); err == nil {
		out, err := w.command(context.Background(), "dspool", "uninstall", "--state-dir", w.state).CombinedOutput()
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("uninstall: %w\n%s", err, out))...)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(w.work))...)
}

// tell prints what somebody wants to read when a test failed.
func (w *world) tell() {
	for _, args := range [][]string{{"events", "--limit", "60"}, {"app", "list", "--all"}, {"session", "list"}} {
		out, _ := w.command(context.Background(), "dspool", args...).CombinedOutput()
		fmt.Fprintf(os.Stderr, "--- dspool %s\n%s", strings.Join(args, " "), out)
	}
	logs, _ := filepath.Glob(filepath.Join(w.state, "shares", "*", "*", ".local", "state", "dspool", "*.log"))
	for _, log := range append(logs, w.log, filepath.Join(w.state, "gateway", "gateway.log")) {
		text, err := os.ReadFile(log)
		if err != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "--- %s\n%s", log, text[max(0, len(text)-24<<10):])
	}
}

// command prepares a command of the host's root to the server.
func (w *world) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if name == "dspool" {
		name = filepath.Join(w.bin, "dspool")
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "DSPOOL_STATE_DIR="+w.state)
	return cmd
}

// dspool runs a command and returns what it prints.
func (w *world) dspool(t testing.TB, args ...string) string {
	t.Helper()
	out, err := w.command(t.Context(), "dspool", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("dspool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (w *world) list(into any, args ...string) error {
	out, err := w.command(context.Background(), "dspool", append(args, "-o", "json")...).Output()
	if err != nil {
		return fmt.Errorf("dspool %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, into)
}

// app is the app of a user that lives.
func (w *world) app(user string) (dspool.App, error) {
	var apps []dspool.App
	if err := w.list(&apps, "app", "list", "--user", user); err != nil {
		return dspool.App{}, err
	}
	if len(apps) != 1 {
		return dspool.App{}, fmt.Errorf("%s has %d apps", user, len(apps))
	}
	return apps[0], nil
}

// sessions are those of a user that have not ended.
func (w *world) sessions(t testing.TB, user string) []dspool.Session {
	t.Helper()
	var all []dspool.Session
	if err := w.list(&all, "session", "list"); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(s dspool.Session) bool { return s.User != user })
}

// populate gives everybody a password and a key.
func (w *world) populate() error {
	var users []dspool.User
	if err := w.list(&users, "user", "list"); err != nil {
		return err
	}
	for _, name := range people {
		line, err := writeKey(w.key(name))
		if err != nil {
			return err
		}
		steps := []struct{ stdin, command string }{
			{password + "\n", "user password " + name + " --stdin"},
			{line + "\n", "user key add --user " + name + " -"},
		}
		if !slices.ContainsFunc(users, func(u dspool.User) bool { return u.Name == name }) {
			steps = slices.Insert(steps, 0, struct{ stdin, command string }{"", "user add " + name})
		}
		for _, step := range steps {
			cmd := w.command(context.Background(), "dspool", strings.Fields(step.command)...)
			cmd.Stdin = strings.NewReader(step.stdin)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("dspool %s: %w\n%s", step.command, err, out)
			}
		}
	}
	return nil
}

func (w *world) key(user string) string { return filepath.Join(w.work, "id_"+user) }

// writeKey makes a private key and returns the line of its public one.
func writeKey(file string) (line string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", err
	}
	wire, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(wire))), os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}

// ssh runs a command with OpenSSH's client through the SSH door.
func (w *world) ssh(t testing.TB, user, command string) string {
	t.Helper()
	out, err := w.trySSH(t.Context(), user, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) trySSH(ctx context.Context, user, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sshTimeout)
	defer cancel()
	host, port, _ := net.SplitHostPort(w.door)
	cmd := w.command(ctx, "ssh", "-F", "none", "-p", port, "-i", w.key(user), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "UserKnownHostsFile="+filepath.Join(w.work, "known_hosts"), "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		user+"@"+host, command)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ssh %s %q: %w\n%s", user, command, err, &stderr)
	}
	return string(out), nil
}

// awaitGateway waits until the gateway keeps all doors and is as wanted.
func (w *world) awaitGateway(ok func(gateway.Status) bool) (g gateway.Status, err error) {
	err = eventually(startTimeout, func() error {
		g, err = gateway.ReadStatus(context.Background(), w.state)
		switch {
		case err != nil:
			return err
		case !ok(g):
			return fmt.Errorf("the gateway is not as wanted: %+v", g)
		}
		for _, door := range []string{w.web, w.door} {
			if !slices.ContainsFunc(g.Doors, func(d gateway.DoorStatus) bool { return d.Address == door }) {
				return fmt.Errorf("the gateway does not keep the door %s: %+v", door, g)
			}
		}
		return nil
	})
	return g, err
}

// final is an error that waiting does not mend.
type final struct{ error }

// eventually repeats fn until it succeeds.
func eventually(most time.Duration, fn func() error) error {
	for deadline := time.Now().Add(most); ; time.Sleep(pollEvery) {
		err := fn()
		if err == nil || errors.As(err, &final{}) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w", most, err)
		}
	}
}

// wait is eventually for tests.
func wait(t testing.TB, most time.Duration, fn func() error) {
	t.Helper()
	if err := eventually(most, fn); err != nil {
		t.Fatal(err)
	}
}

func onInterrupt() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}
