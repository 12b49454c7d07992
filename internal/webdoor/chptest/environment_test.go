package main_test

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
)

// Of the registry of npm: what the door takes the place of.
const modelPackage = "configurable-http-proxy@5.3.0"

const (
	buildTimeout   = 3 * time.Minute
	installTimeout = 8 * time.Minute
)

// program builds the door that is tested, in a folder where it has its model's name.
func program(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts other people's programs: not with -short")
	}
	file := filepath.Join(t.TempDir(), "configurable-http-proxy")
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the door: %v\n%s", err, out)
	}
	return file
}

// model is configurable-http-proxy itself. Without node or its registry the test is skipped.
func model(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: there is no %s to run %s with", tool, modelPackage)
		}
	}
	dir := installed(t, "npm", modelPackage, func(ctx context.Context, dir string) ([]byte, error) {
		return exec.CommandContext(ctx, "npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", dir, modelPackage).CombinedOutput()
	})
	return filepath.Join(dir, "node_modules", ".bin", "configurable-http-proxy")
}

// jupyterHub is the Python of a virtual environment with JupyterHub and what its tests need. Without
// Python or its registry the test is skipped.
func jupyterHub(t *testing.T) string {
	t.Helper()
	requirements, err := filepath.Abs(filepath.Join("testdata", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	interpreter, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: no python3 here")
	}
	version, err := exec.CommandContext(t.Context(), interpreter, "-c", "import sys; print(sys.version, sys.version_info >= (3, 10))").Output()
	if err != nil || !bytes.HasSuffix(bytes.TrimSpace(version), []byte("True")) {
		t.Skipf("SKIPPED: JupyterHub needs Python 3.10: %s %v", version, err)
	}
	dir := installed(t, "hub", string(list)+interpreter+string(version), func(ctx context.Context, dir string) ([]byte, error) {
		if out, err := exec.CommandContext(ctx, interpreter, "-m", "venv", "--clear", dir).CombinedOutput(); err != nil {
			return out, fmt.Errorf("make a virtual environment (on Debian with python3-venv): %w", err)
		}
		return exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:", "-r", requirements).CombinedOutput()
	})
	return filepath.Join(dir, "bin", "python")
}

// installed returns a folder that install has filled, now or in a former run; its name says with what.
func installed(t *testing.T, kind, what string, install func(ctx context.Context, dir string) ([]byte, error)) string {
	t.Helper()
	user, _ := os.UserCacheDir()
	cache := cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), filepath.Join(cmp.Or(user, os.TempDir()), "dspool"))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, fmt.Sprintf("webdoor-%s-%.6x", kind, sha256.Sum256([]byte(what))))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	if out, err := install(ctx, dir); err != nil {
		t.Skipf("SKIPPED: what this test compares with cannot be installed: %v\n%s", err, out)
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
