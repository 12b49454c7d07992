package python_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dspool/dspool/python"
)

// Of the registry of npm: the proxy that JupyterHub's own tests use, as a door until ours is asked.
const proxyPackage = "configurable-http-proxy@5.3.0"

const (
	installTimeout = 8 * time.Minute
	testTimeout    = 8 * time.Minute
)

func TestPythonPassesItsOwnTests(t *testing.T) {
	if testing.Short() {
		t.Skip("they run JupyterHub and notebook servers: not with -short")
	}
	t.Parallel()
	dir := environment(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	bin := filepath.Join(dir, "venv", "bin")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "python"), "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--basetemp", filepath.Join(t.TempDir(), "pytest"))
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "PYTHONPATH=.:tests", "PYTHONDONTWRITEBYTECODE=1")
	if proxy := filepath.Join(dir, "npm", "node_modules", ".bin", "configurable-http-proxy"); exists(proxy) {
		cmd.Env = append(cmd.Env, "DSPOOL_TEST_CHP="+proxy)
	}
	// A terminated pytest ends what it started; a killed one would not.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pytest: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func TestTheWholePackageIsEmbedded(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir("dspool", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".py" {
			return err
		}
		if _, err := python.FS.Open(path); err != nil {
			t.Errorf("%s is not embedded: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// environment makes a folder with a virtual environment and a proxy, or finds that of a former run. The
// folder's name says what is in it, so it is never changed. Without Python, or a registry, the test is skipped.
func environment(t *testing.T) string {
	t.Helper()
	requirements, err := os.ReadFile(filepath.Join("tests", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	interpreter, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: no python3 here")
	}
	version := output(t, interpreter, "-c", "import sys; print(sys.version, sys.version_info >= (3, 11))")
	if !bytes.HasSuffix(version, []byte("True")) {
		t.Skipf("SKIPPED: Python is too old: %s", version)
	}
	user, _ := os.UserCacheDir()
	name := fmt.Sprintf("python-%x", sha256.Sum256(fmt.Append(nil, string(requirements), proxyPackage, interpreter, string(version))))[:19]
	dir := filepath.Join(cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), filepath.Join(cmp.Or(user, os.TempDir()), "dspool")), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock := lock(t, dir+".lock")
	defer unlock()
	done := filepath.Join(dir, "done")
	if exists(done) {
		return dir
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, interpreter, "-m", "venv", "--clear", filepath.Join(dir, "venv")).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no virtual environment here (on Debian: python3-venv): %v\n%s", err, out)
	}
	pip := exec.CommandContext(ctx, filepath.Join(dir, "venv", "bin", "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:", "-r", filepath.Join("tests", "requirements.txt"))
	if out, err := pip.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: pip cannot install what the tests need: %v\n%s", err, out)
	}
	npm := exec.CommandContext(ctx, "npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", filepath.Join(dir, "npm"), proxyPackage)
	if out, err := npm.CombinedOutput(); err != nil {
		// Asked for again the next time; what needs no proxy runs.
		t.Logf("SKIPPED: the tests with a whole JupyterHub, because npm cannot install %s: %v\n%s", proxyPackage, err, out)
		return dir
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(out)
}

// lock keeps two runs of this test from building one environment.
func lock(t *testing.T, path string) func() {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
