package host_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
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
	"github.com/dspool/dspool/internal/agent/host"
	"github.com/dspool/dspool/internal/agent/initd"
	"github.com/dspool/dspool/internal/testkit"
)

// fakeInit is an init that does nothing.
type fakeInit struct {
	mu       sync.Mutex
	fault    error
	open     map[int64]initd.Session
	services []initd.ServiceStatus
	served   []initd.Service
	wanted   []initd.Apps
	apps     []initd.AppStatus
	ends     []initd.AppEnd
	pids     []int // of every session
}

func (f *fakeInit) Open(_ context.Context, s initd.Session) (initd.SessionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault == nil {
		f.open[s.ID] = s
	}
	return initd.SessionStatus{Session: s, Join: []string{"/cg/a", "/cg/b"}}, f.fault
}

func (f *fakeInit) Close(_ context.Context, e initd.Closing) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, e.ID)
	return f.fault
}

func (f *fakeInit) Sessions(context.Context) (list []initd.SessionStatus, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.open {
		list = append(list, initd.SessionStatus{Session: s, PIDs: f.pids})
	}
	return list, f.fault
}

func (f *fakeInit) Serve(_ context.Context, s initd.Service) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.served = append(f.served, s)
	return f.fault
}

func (f *fakeInit) Services(context.Context) ([]initd.ServiceStatus, error) {
	return f.services, f.fault
}

func (f *fakeInit) WantApps(_ context.Context, a initd.Apps) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = append(f.wanted, a)
	return f.fault
}

func (f *fakeInit) Apps(context.Context, int64, time.Duration) ([]initd.AppStatus, int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.apps, 1, f.fault
}

func (f *fakeInit) EndApp(_ context.Context, e initd.AppEnd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends = append(f.ends, e)
	return f.fault
}

func (f *fakeInit) ForgetApps(context.Context, []int64) error { return f.fault }

type bench struct {
	*host.Host
	init *fakeInit
	cfg  host.Config
	home string
	uid  int
}

// newBench is a host in directories of the test. Its sshd only tells its version, and what
// listens for it is the test.
func newBench(t *testing.T, version string) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: the host works as root")
	}
	dir, err := os.MkdirTemp("", "host")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	b := &bench{init: &fakeInit{open: map[int64]initd.Session{}}, home: filepath.Join(dir, "home"), uid: 20001}
	b.cfg = host.Config{
		Init: b.init, Dir: filepath.Join(dir, "ssh"), State: filepath.Join(dir, "state"), Etc: filepath.Join(dir, "etc"),
		Sshd: filepath.Join(dir, "sshd"), Empty: filepath.Join(dir, "empty"), Port: l.Addr().(*net.TCPAddr).Port,
	}
	must(t, os.WriteFile(b.cfg.Sshd, []byte("#!/bin/sh\necho 'OpenSSH_"+version+", OpenSSL' >&2\n"), 0o755))
	must(t, os.Mkdir(b.home, 0o700))
	must(t, os.Chown(b.home, b.uid, b.uid))
	b.Host = host.New(b.cfg)
	return b
}

func authority(t *testing.T) string {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	return string(ssh.MarshalAuthorizedKey(key))
}

func (b *bench) directive() api.SessionDirective {
	return api.SessionDirective{ID: 1, Account: api.Account{User: "alice", UID: b.uid, GID: b.uid, Home: b.home}, Motd: "hello"}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	return string(text)
}

func TestHostKey(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	first, err := b.HostKey()
	must(t, err)
	if again, err := b.HostKey(); err != nil || again != first || !strings.HasPrefix(first, "ssh-ed25519 ") {
		t.Errorf("%q, then %q, %v", first, again, err)
	}
	if info, err := os.Stat(filepath.Join(b.cfg.State, "ssh_host_ed25519_key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	must(t, os.Remove(b.cfg.Sshd))
	if key, err := b.HostKey(); err != nil || key != "" {
		t.Errorf("without sshd: %q, %v", key, err)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	for version, penalties := range map[string]bool{"9.2p1 Debian-2": false, "9.8p1": true, "10.0p2 Debian-7": true, "unreadable": false} {
		b := newBench(t, version)
		must(t, b.Trust(t.Context(), authority(t)))
		config := read(t, filepath.Join(b.cfg.Dir, "sshd_config"))
		if got := strings.Contains(config, "PerSourcePenalties no"); got != penalties {
			t.Errorf("%s: penalties named: %v", version, got)
		}
		must(t, b.Trust(t.Context(), authority(t))) // sshd reads the authority anew for every login
		if s := b.init.served; len(s) != 2 || s[0].Version != s[1].Version {
			t.Errorf("another authority restarts sshd: %+v", s)
		}
	}
	b := newBench(t, "10.0p1")
	for _, bad := range []string{"nonsense", "ssh-ed25519 AAAA", "ssh-rsa !\nssh-rsa"} {
		if err := b.Trust(t.Context(), bad); err == nil || errors.Is(err, host.ErrAway) {
			t.Errorf("authority %q: %v", bad, err)
		}
	}
	if len(b.init.served) != 0 {
		t.Error("sshd was started without an authority")
	}
}

func TestOpenAndClose(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	d := b.directive()
	if err := b.Open(t.Context(), d); err == nil || !strings.Contains(err.Error(), "no authority") {
		t.Errorf("before sshd was started: %v", err)
	}
	must(t, b.Trust(t.Context(), authority(t)))
	d.Sudo = true
	if err := b.Open(t.Context(), d); err == nil || !strings.Contains(err.Error(), "image has none") {
		t.Errorf("without sudo in the image: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(b.cfg.Etc, "sudoers.d"), 0o750))
	must(t, b.Open(t.Context(), d))
	must(t, b.Open(t.Context(), d))
	files := map[string]string{
		filepath.Join(b.cfg.Dir, "principals/alice"):       "alice\n",
		filepath.Join(b.cfg.Dir, "join/alice"):             "/cg/a\n/cg/b\n",
		filepath.Join(b.cfg.Dir, "motd/alice"):             "hello\n",
		filepath.Join(b.cfg.Etc, "sudoers.d/dspool-alice"): "alice ALL=(ALL:ALL) NOPASSWD: ALL\n",
	}
	for path, want := range files {
		if got := read(t, path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	must(t, b.Close(t.Context(), d))
	must(t, b.Close(t.Context(), d))
	for path := range files {
		if got := read(t, path); got != "" {
			t.Errorf("%s is left: %q", path, got)
		}
	}
}

func TestCloseLeavesLaterSession(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	must(t, b.Trust(t.Context(), authority(t)))
	old, later := b.directive(), b.directive()
	later.ID = 2
	must(t, b.Open(t.Context(), later))
	must(t, b.Close(t.Context(), old))
	if read(t, filepath.Join(b.cfg.Dir, "principals/alice")) == "" {
		t.Error("the later session's user is kept out")
	}
}

func TestInitsAnswers(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	must(t, b.Trust(t.Context(), authority(t)))
	b.init.fault = errors.New("connection refused")
	if err := b.Open(t.Context(), b.directive()); !errors.Is(err, host.ErrAway) {
		t.Errorf("silence: %v", err)
	}
	b.init.fault = &initd.Refused{}
	if err := b.Open(t.Context(), b.directive()); err == nil || errors.Is(err, host.ErrAway) || dspool.ErrorCode(err) != dspool.Conflict {
		t.Errorf("a refusal: %v", err)
	}
	if read(t, filepath.Join(b.cfg.Dir, "principals/alice")) != "" {
		t.Error("the user may log in")
	}
	d := b.directive()
	d.User = "../../etc/x"
	if err := b.Open(t.Context(), d); err == nil {
		t.Error("a name that is a path is taken")
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	must(t, b.Trust(t.Context(), authority(t)))
	secret := filepath.Join(b.cfg.Dir, "secret")
	must(t, os.Mkdir(secret, 0o700))
	in := func(name string) string { return filepath.Join(b.home, name) }
	must(t, os.WriteFile(in("own"), []byte("mine"), 0o600))
	must(t, os.Symlink(secret, in("trap"))) // a directory that only root may write
	must(t, os.Symlink("/nowhere", in("dangling")))
	d := b.directive()
	target := in("real/deep")
	d.Links = []api.Link{
		{Path: "team", Target: "/mnt/team"},
		{Path: "a/b/c", Target: target, MakeTarget: true},
		{Path: "own", Target: "/mnt/team"},
		{Path: "dangling", Target: "/mnt/team"},
		{Path: "trap/x", Target: "/mnt/team"},
		{Path: "../outside", Target: "/mnt/team"},
		{Path: "/absolute", Target: "/mnt/team"},
		{Path: "made", Target: filepath.Join(secret, "made"), MakeTarget: true},
		{Path: "last", Target: "/mnt/last"},
	}
	for range 2 {
		must(t, b.Open(t.Context(), d))
	}
	for name, want := range map[string]string{"team": "/mnt/team", "a/b/c": target, "dangling": "/nowhere", "last": "/mnt/last"} {
		if got, err := os.Readlink(in(name)); err != nil || got != want {
			t.Errorf("%s → %s, %v", name, got, err)
		}
	}
	if read(t, in("own")) != "mine" {
		t.Error("what the user had was replaced")
	}
	if info, err := os.Lstat(target); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("target %v, %v", info, err)
	}
	if entries, _ := os.ReadDir(secret); len(entries) != 0 {
		t.Errorf("written as root: %v", entries)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(b.home), "outside")); err == nil {
		t.Error("a link outside the home")
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := newBench(t, "10.0p1")
	for _, c := range []struct {
		status initd.ServiceStatus
		want   dspool.Health
	}{
		{initd.ServiceStatus{Name: "sshd", PID: 7, Failures: 9}, dspool.Healthy},
		{initd.ServiceStatus{Name: "sshd", Failures: 1}, dspool.Healthy},
		{initd.ServiceStatus{Name: "sshd", Failures: 3, Said: "a\nMissing privilege separation directory"}, dspool.Unhealthy},
		{initd.ServiceStatus{Name: "other", Failures: 9}, dspool.Healthy},
	} {
		b.init.services = []initd.ServiceStatus{c.status}
		health, reason := b.Health(t.Context())
		if health != c.want || health == dspool.Unhealthy && !strings.HasSuffix(testkit.Text(reason), ": Missing privilege separation directory") {
			t.Errorf("%+v: %v, %q", c.status, health, testkit.Text(reason))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
