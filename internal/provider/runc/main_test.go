package runc_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/runc"
)

// Programs that the tests need, built once.
var (
	runcBinary   = sync.OnceValues(func() (string, error) { return findOrBuildRunc() })
	inmateBinary = sync.OnceValues(func() (string, error) {
		if path := os.Getenv("DSPOOL_TEST_INMATE"); path != "" {
			return path, nil
		}
		return build("inmate", []string{"CGO_ENABLED=0"}, "./testdata/inmate")
	})
	buildDir string
)

func TestMain(m *testing.M) {
	if script := os.Getenv("DSPOOL_TEST_KILLED"); script != "" {
		beKilled(script)
	}
	os.Exit(func() int {
		var err error
		if buildDir, err = os.MkdirTemp("", "dspool-runc-test"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(buildDir)
		return m.Run()
	}())
}

func findOrBuildRunc() (string, error) {
	if path := os.Getenv("DSPOOL_TEST_RUNC"); path != "" {
		return path, nil
	}
	if path, err := filepath.Abs("../../../bin/runc"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return build("runc", nil, "-tags", "seccomp", "github.com/opencontainers/runc")
}

func build(name string, env []string, args ...string) (string, error) {
	file := filepath.Join(buildDir, name)
	cmd := exec.Command("go", append([]string{"build", "-o", file}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return file, nil
}

// needRoot skips where machines cannot be made at all.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: machines can only be made by root")
	}
	if testing.Short() {
		t.Skip("SKIPPED: -short makes no machines")
	}
}

// noNetwork leaves machines with nothing but their loopback.
type noNetwork struct {
	mu    sync.Mutex
	count byte
}

func (*noNetwork) Gateway() netip.Addr    { return netip.MustParseAddr("192.0.2.1") }
func (*noNetwork) Nameserver() netip.Addr { return netip.MustParseAddr("192.0.2.1") }
func (n *noNetwork) Plug(ctx context.Context, machine string, pid int, reach provider.Reach) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count++
	return netip.AddrFrom4([4]byte{192, 0, 2, n.count}), ctx.Err()
}
func (*noNetwork) Adopt(string, int) error              { return nil }
func (*noNetwork) Unplug(context.Context, string) error { return nil }
func (*noNetwork) Remove() error                        { return nil }

// world is one installation under test.
type world struct {
	*runc.Provider
	t     testing.TB
	cfg   runc.Config
	image string
}

func testConfig(t testing.TB) runc.Config {
	t.Helper()
	needRoot(t)
	runcPath, err := runcBinary()
	if err != nil {
		t.Fatal(err)
	}
	self, err := inmateBinary()
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	return runc.Config{
		StateDir: t.TempDir(), Installation: hex.EncodeToString(id),
		Runc: runcPath, Self: self, Network: &noNetwork{},
	}
}

// open makes an installation that is removed when the test ends.
func open(t testing.TB, change func(*runc.Config)) *world {
	t.Helper()
	cfg := testConfig(t)
	if change != nil {
		change(&cfg)
	}
	w := &world{t: t, cfg: cfg, image: testImage(t)}
	w.reopen()
	t.Cleanup(func() {
		if err := w.Remove(context.Background()); err != nil {
			t.Errorf("remove installation: %v", err)
		}
		w.Close()
	})
	return w
}

// reopen is what a restarted server does.
func (w *world) reopen() {
	w.t.Helper()
	if w.Provider != nil {
		w.Close()
	}
	p, err := runc.Open(w.t.Context(), w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Provider = p
}

// testImage is a root file system: a real one where DSPOOL_TEST_IMAGE names it, else empty directories.
func testImage(t testing.TB) string {
	if dir := os.Getenv("DSPOOL_TEST_IMAGE"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	for _, d := range []string{"dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "var"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	// An image may hold anything, also links out of itself.
	if err := os.Symlink("/var/tmp/dspool-must-not-be-written", filepath.Join(dir, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (w *world) spec(name string) provider.MachineSpec { return testSpec(name, w.image) }

func testSpec(name, image string) provider.MachineSpec {
	return provider.MachineSpec{
		Name: name, Resources: dspool.Resources{CPUs: 1, Memory: 256 << 20}, Disk: 64 << 20,
		Image: image, UIDs: dspool.UIDRange{First: 20000, Last: 29999},
		Agent: provider.AgentBoot{Machine: name, Token: "secret-" + name},
	}
}

// create makes a machine or fails the test.
func (w *world) create(spec provider.MachineSpec) provider.Handle {
	w.t.Helper()
	h, err := w.Create(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// inside runs an action of the inmate in a machine as uid, with what a task of its root or of a user has.
func (w *world) inside(machine string, uid int, args ...string) (string, error) {
	w.t.Helper()
	base := []string{"--root", filepath.Join(w.cfg.StateDir, "runc"), "exec", "--user", fmt.Sprintf("%d:%d", uid, uid), machine, "/run/dspool/dspool"}
	return command(w.t, w.cfg.Runc, append(base, args...)...)
}

// inBackground is inside that does not wait for the action's end.
func (w *world) inBackground(machine string, uid int, args ...string) {
	w.t.Helper()
	base := []string{"--root", filepath.Join(w.cfg.StateDir, "runc"), "exec", "--detach", "--user", fmt.Sprintf("%d:%d", uid, uid), machine, "/run/dspool/dspool"}
	// Without pipes: the detached process would hold them.
	if err := exec.CommandContext(w.t.Context(), w.cfg.Runc, append(base, args...)...).Run(); err != nil {
		w.t.Fatal(err)
	}
}

func command(t testing.TB, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.WaitDelay = 10 * time.Second // for what the command leaves behind that holds its output
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// mustInside is inside that fails the test when the action fails.
func (w *world) mustInside(machine string, uid int, args ...string) string {
	w.t.Helper()
	out, err := w.inside(machine, uid, args...)
	if err != nil {
		w.t.Fatalf("%v in %s as %d: %v: %s", args, machine, uid, err, out)
	}
	return out
}

// refused fails the test when the action succeeds.
func (w *world) refused(machine string, uid int, args ...string) string {
	w.t.Helper()
	out, err := w.inside(machine, uid, args...)
	if err == nil {
		w.t.Errorf("%v in %s as %d was not refused: %s", args, machine, uid, out)
	}
	return out
}
