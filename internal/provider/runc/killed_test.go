package runc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/provider"
	"github.com/dspool/dspool/internal/provider/runc"
)

// killScript is what a process does that is killed on the way.
type killScript struct {
	Config  runc.Config
	Spec    provider.MachineSpec
	Destroy bool // killed while it destroys the machine, else while it creates it
	Step    string
}

// beKilled plays a server that is killed with SIGKILL at a step. It does not return.
func beKilled(script string) {
	var k killScript
	var network noNetwork
	k.Config.Network = &network
	fail := func(err error) {
		fmt.Println(err)
		os.Exit(1)
	}
	if err := json.Unmarshal([]byte(script), &k); err != nil {
		fail(err)
	}
	p, err := runc.Open(context.Background(), k.Config)
	if err != nil {
		fail(err)
	}
	p.SetFault(func(step string) error {
		if step == k.Step {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	})
	if k.Destroy {
		err = p.Destroy(context.Background(), k.Spec.Name)
	} else {
		_, err = p.Create(context.Background(), k.Spec)
	}
	fail(fmt.Errorf("step %s was never reached: %w", k.Step, err))
}

// killedAt runs the script, with w's configuration, in a process of its own.
func (w *world) killedAt(k killScript) {
	w.t.Helper()
	k.Config = w.cfg
	w.killed(k)
}

func (w *world) killed(k killScript) {
	w.t.Helper()
	script, err := json.Marshal(k)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), "DSPOOL_TEST_KILLED="+string(script))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		w.t.Fatalf("was not killed at %s: %v: %s", k.Step, err, out)
	}
}

// wantClean fails unless nothing of the installation's machines is left on the host.
func (w *world) wantClean(name string) {
	w.t.Helper()
	list, err := w.List(w.t.Context())
	if err != nil || len(list) != 0 {
		w.t.Errorf("listed are %+v, %v", list, err)
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/*/dspool-" + w.cfg.Installation + "/*/", "/sys/fs/cgroup/dspool-" + w.cfg.Installation + "/*/",
		filepath.Join(w.cfg.StateDir, "machines/*"), filepath.Join(w.cfg.StateDir, "runc/*"),
	} {
		if left, _ := filepath.Glob(pattern); len(left) != 0 {
			w.t.Errorf("left: %v", left)
		}
	}
	ids, _ := filepath.Glob("/run/dspool/uids/*")
	for _, link := range ids {
		if target, _ := os.Readlink(link); strings.HasPrefix(target, w.cfg.StateDir) {
			if _, err := os.Stat(target); err == nil {
				w.t.Errorf("private ids of %s are still taken", name)
			}
		}
	}
	// The kernel frees a loop device a moment after the last process with its mount has ended.
	w.eventually("loop devices are free", func() bool {
		backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		return !slices.ContainsFunc(backing, func(file string) bool {
			data, _ := os.ReadFile(file)
			return strings.HasPrefix(string(data), w.cfg.StateDir+"/")
		})
	})
}

// settle bounds the wait for what the kernel does by itself.
const settle = 5 * time.Second

func (w *world) eventually(condition string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(settle); !holds(); {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Errorf("after %v it does not hold that %s", settle, condition)
			return
		}
	}
}

func TestKilledWhileCreating(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"directory", "ids", "disk", "mounts", "container", "delegated", "plugged", "recorded", "started"} {
		t.Run("a server killed at "+step+" leaves what is listed, and can be made or destroyed", func(t *testing.T) {
			t.Parallel()
			w := open(t, nil)
			spec := w.spec("m-1")
			w.killedAt(killScript{Spec: spec, Step: step})
			w.reopen()
			list, err := w.List(t.Context())
			if err != nil || len(list) != 1 || list[0].Running != (step == "started") {
				t.Fatalf("listed are %+v, %v", list, err)
			}
			w.create(spec)
			w.mustInside("m-1", 0, "ids")
			if err := w.Destroy(t.Context(), "m-1"); err != nil {
				t.Fatal(err)
			}
			w.wantClean("m-1")

			w.killedAt(killScript{Spec: spec, Step: step})
			w.reopen()
			if err := w.Destroy(t.Context(), "m-1"); err != nil {
				t.Fatal(err)
			}
			w.wantClean("m-1")
		})
	}
}

func TestKilledWhileDestroying(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"killed", "ungrouped", "unplugged", "forgotten", "removed"} {
		t.Run("a server killed at "+step+" can destroy the rest", func(t *testing.T) {
			t.Parallel()
			w := open(t, nil)
			spec := w.spec("m-1")
			w.create(spec)
			w.Close()
			w.killedAt(killScript{Spec: spec, Step: step, Destroy: true})
			w.reopen()
			list, err := w.List(t.Context())
			if err != nil || len(list) > 1 || (len(list) == 1 && list[0].Running) {
				t.Errorf("listed are %+v, %v", list, err)
			}
			if err := w.Destroy(t.Context(), "m-1"); err != nil {
				t.Fatal(err)
			}
			w.wantClean("m-1")
			w.create(spec)
		})
	}
}

func TestFailedStepIsUndone(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	for _, step := range []string{"directory", "ids", "disk", "mounts", "container", "delegated", "plugged", "recorded", "started"} {
		t.Run(step, func(t *testing.T) {
			w.SetFault(func(s string) error {
				if s == step {
					return fmt.Errorf("fault at %s", s)
				}
				return nil
			})
			if _, err := w.Create(t.Context(), w.spec("m-1")); err == nil || !strings.Contains(err.Error(), "fault at "+step) {
				t.Errorf("returned %v", err)
			}
			w.wantClean("m-1")
		})
	}
}

func TestKilledWhileRuncWorks(t *testing.T) {
	t.Parallel()
	w := open(t, nil)
	spec := w.spec("m-1")
	// A runc that kills the server and lives on, as one does that was told of the
	// server's death too late.
	orphan := w.cfg
	orphan.Runc = filepath.Join(t.TempDir(), "runc")
	script := "#!/bin/sh\n(exec '" + w.cfg.Runc + "' \"$@\") &\nkill -9 $PPID\n"
	if err := os.WriteFile(orphan.Runc, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.killed(killScript{Config: orphan, Spec: spec, Step: "killed by runc"})
		w.reopen()
		if err := w.Destroy(t.Context(), "m-1"); err != nil {
			t.Fatal(err)
		}
		w.wantClean("m-1")
	}
}
