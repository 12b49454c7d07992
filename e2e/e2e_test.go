// Package e2e runs the built program on real machines: every script in testdata is a story that a
// person or an attacker could play, with its own server, state directory and network. What a
// server leaves on the host after `dspool uninstall` fails the script.
//
// The commands that scripts have beside testscript's own are in commands_test.go.
package e2e_test

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// team is the configuration of every server whose script has none of its own.
//
//go:embed testdata/team.yaml
var team string

func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: end to end needs real machines (-short)")
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("SKIPPED: end to end needs real machines, which only root on Linux can make")
	}
	dir := workDir(t)
	bin := filepath.Join(dir, "bin")
	build(t, bin)
	deadline, _ := t.Deadline() // before it, scripts are ended and cleaned up after
	testscript.Run(t, testscript.Params{
		Deadline:            deadline,
		Dir:                 "testdata",
		WorkdirRoot:         dir,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setup(env, bin) },
		Cmds:                commands,
	})
}

// workDir is where servers keep their state: a user of the host must be able to come as far as
// the program, as on a real one.
func workDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "dspool-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error("something still holds the work directory: ", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// build makes the program, always afresh, and takes the pinned runc that `make build` made.
func build(t *testing.T, bin string) {
	goBuild := func(env []string, args ...string) {
		cmd := exec.Command("../scripts/go", append([]string{"build", "-trimpath"}, args...)...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	goBuild([]string{"CGO_ENABLED=0"}, "-o", filepath.Join(bin, "dspool"), "../cmd/dspool")
	runc := filepath.Join(bin, "runc")
	if made, err := filepath.Abs("../bin/runc"); err == nil {
		if _, err := os.Stat(made); err == nil {
			if err := os.Symlink(made, runc); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	// Without seccomp machines would start without its protection.
	goBuild([]string{"CGO_ENABLED=1"}, "-tags", "seccomp", "-o", runc, "github.com/opencontainers/runc")
}
