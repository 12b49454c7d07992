package runc_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// BenchmarkCreate measures making a machine, and where the time goes.
func BenchmarkCreate(b *testing.B) {
	w := open(b, nil)
	w.create(w.spec("warm-up")) // makes the disk's template
	steps := map[string]time.Duration{}
	var last time.Time
	w.SetFault(func(step string) error {
		now := time.Now()
		steps[step] += now.Sub(last)
		last = now
		return nil
	})
	for b.Loop() {
		last = time.Now()
		w.create(w.spec("m-1"))
		b.StopTimer()
		last = time.Now()
		if err := w.Destroy(b.Context(), "m-1"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	for step, d := range steps {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), "ms-"+step+"/op")
	}
}

// BenchmarkBareRuncRun is what BenchmarkCreate is compared with: "runc run" of the
// bundle of a machine, on a root file system that lies there ready, without a network.
func BenchmarkBareRuncRun(b *testing.B) {
	w := open(b, nil)
	bundle := bareBundle(b, w)
	root := filepath.Join(b.TempDir(), "runc")
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("bare-%s-%d", w.cfg.Installation, i)
		// Without pipes: the detached process would hold them.
		if err := exec.CommandContext(b.Context(), w.cfg.Runc, "--root", root, "run", "--detach", "--bundle", bundle, name).Run(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if out, err := command(b, w.cfg.Runc, "--root", root, "delete", "--force", name); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.StartTimer()
	}
}

// bareBundle is a machine's bundle over plain directories.
func bareBundle(b *testing.B, w *world) string {
	b.Helper()
	w.create(w.spec("m-1"))
	data, err := os.ReadFile(filepath.Join(w.cfg.StateDir, "machines/m-1/config.json"))
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // the machine's root passes through
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), bare(b, data, dir, w), 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}

// bare points a machine's configuration at directories of its own.
func bare(b *testing.B, data []byte, dir string, w *world) []byte {
	b.Helper()
	var config specs.Spec
	if err := json.Unmarshal(data, &config); err != nil {
		b.Fatal(err)
	}
	root, run := filepath.Join(dir, "root"), filepath.Join(dir, "run")
	for _, d := range []string{"root/dev", "root/proc", "root/sys", "root/run", "root/etc", "root/tmp", "run/dspool"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "run/dspool/dspool"), nil, 0o755); err != nil {
		b.Fatal(err)
	}
	const private = 0x7ffe0000
	for _, d := range []string{root, run, filepath.Join(run, "dspool")} {
		if err := os.Chown(d, private, private); err != nil {
			b.Fatal(err)
		}
	}
	config.Root.Path = root
	config.Linux.CgroupsPath = "/dspool-" + w.cfg.Installation + "/bare"
	for i, ns := range config.Linux.Namespaces {
		if ns.Type == specs.UserNamespace {
			config.Linux.Namespaces[i].Path = ""
		}
	}
	config.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: private, Size: 65536}}
	config.Linux.GIDMappings = config.Linux.UIDMappings
	config.Mounts = slices.DeleteFunc(config.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/fuse" })
	for i, m := range config.Mounts {
		if m.Destination == "/run" {
			config.Mounts[i].Source = run
		}
	}
	out, err := json.Marshal(config)
	if err != nil {
		b.Fatal(err)
	}
	return out
}
