package main_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hubTimeout is for all of JupyterHub's proxy tests.
const hubTimeout = 5 * time.Minute

// JupyterHub starts the door in place of configurable-http-proxy, and judges it by its own tests.
func TestJupyterHubsOwnProxyTestsPass(t *testing.T) {
	t.Parallel()
	door := program(t)
	python := jupyterHub(t)
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		claim, host string
		least       string // so many tests or more
	}{
		{"with users under paths", "", `(3[3-9]|[4-9]\d|\d{3}) passed`},
		{"with users under names", "http://localhost.jovyan.org:18555", `(3[3-9]|[4-9]\d|\d{3}) passed`},
	} {
		t.Run(c.claim, func(t *testing.T) {
			modules := []string{"jupyterhub.tests.test_proxy"}
			if c.host == "" {
				modules = append(modules, "jupyterhub.tests.test_unix_socket")
			}
			dir, err := os.MkdirTemp("", "hub") // the path of a socket is short
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			path := "PATH=" + strings.Join([]string{filepath.Dir(door), filepath.Dir(python), os.Getenv("PATH")}, ":")
			defer endAll(t, path)
			ctx, cancel := context.WithTimeout(t.Context(), hubTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, python, append([]string{"-m", "pytest", "-c", filepath.Join(testdata, "pytest.ini"), "--rootdir", dir,
				"--basetemp", filepath.Join(dir, "pytest"), "--pyargs"}, modules...)...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), path, "PYTHONPATH="+testdata, "PYTHONDONTWRITEBYTECODE=1", "JUPYTERHUB_TEST_SUBDOMAIN_HOST="+c.host)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			// A terminated pytest ends what it started; a killed one would not.
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
			cmd.WaitDelay = time.Minute
			out, err := cmd.CombinedOutput()
			if err != nil || !regexp.MustCompile(c.least).Match(out) {
				t.Fatalf("pytest: %v\n%s", err, out)
			}
			t.Logf("%s", out[max(0, len(out)-200):])
		})
	}
}

// endAll ends processes that have a variable in their environment: JupyterHub's tests leave notebook
// servers behind, in sessions of their own.
func endAll(t *testing.T, variable string) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Error(err)
	}
	for _, dir := range processes {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		environment, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err == nil && slices.Contains(strings.Split(string(environment), "\x00"), variable) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Logf("end process %d: %v", pid, err)
			}
		}
	}
}
