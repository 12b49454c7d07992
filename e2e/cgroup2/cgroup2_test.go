// Package cgroup2 runs dspool on an emulated computer whose kernel has only the unified control
// group hierarchy, as current distributions do: the server in the root group, in a service's
// group below a slice as systemd makes them, and in a container's group namespace.
//
// The computer is QEMU without hardware virtualisation, its kernel Debian's, its file system an
// image of dspool's own. testdata/guest is its first process; it does the checks and reports one
// line of JSON for each, which become subtests here. On an idle core that takes two and a half
// minutes; DSPOOL_TEST_CGROUP2=all adds the tests of internal/provider/runc, three minutes more.
package cgroup2_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	memory  = "1536M"
	timeout = 15 * time.Minute // emulated processors are ten and more times slower
)

// report is a line that the guest writes.
type report struct {
	Case    string  `json:"case"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
	Done    int     `json:"done"` // of the last line: how many cases there were
}

func TestUnifiedControlGroups(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED: emulating a computer takes minutes (-short)")
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: only root can build the emulated computer's file system")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("NOT TESTED: no qemu-system-x86_64: apt-get install qemu-system-x86")
	}
	cache := cacheDir(t)
	linux := debianKernel(t, cache)
	disk, key := baseDisk(t, cache)
	dir := t.TempDir()
	initrd := buildInitrd(t, dir, linux)
	console := filepath.Join(dir, "console.log")
	begun := time.Now()
	cmd := exec.CommandContext(t.Context(), qemu,
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1", "-m", memory,
		"-kernel", linux.image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off cgroup_no_v1=all rdinit=/guest dspool.image="+key+" dspool.places="+places(),
		"-drive", "file="+disk+",format=raw,if=virtio,snapshot=on",
		"-serial", "file:"+console, "-serial", "stdio", "-device", "virtio-rng-pci")
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	overdue := time.AfterFunc(timeout, func() { _ = cmd.Process.Kill() })
	cases, done := subtests(t, out)
	_ = cmd.Wait()
	if !overdue.Stop() {
		t.Errorf("the emulated computer did not end within %s", timeout)
	}
	if done != cases || cases == 0 {
		t.Errorf("%d cases were reported, the last line says %d", cases, done)
	}
	t.Logf("linux %s, %d cases, %.0f s", linux.version, cases, time.Since(begun).Seconds())
	if t.Failed() {
		t.Logf("%sconsole:\n%s", stderr.Bytes(), tail(console))
	}
}

// subtests reads the guest's lines to their end.
func subtests(t *testing.T, lines io.Reader) (cases, done int) {
	scan := bufio.NewScanner(lines)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		var r report
		if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
			t.Logf("guest: %s", scan.Text())
			continue
		}
		if r.Case == "" {
			done = r.Done
			continue
		}
		cases++
		t.Run(r.Case, func(t *testing.T) {
			t.Logf("%.1f s %s", r.Seconds, r.Detail)
			if !r.OK {
				t.Fail()
			}
		})
	}
	return cases, done
}

// places are those that DSPOOL_TEST_CGROUP2 names, separated by commas. "provider" are the
// provider's own tests, which take longer than the others together.
func places() string {
	wanted := cmp.Or(os.Getenv("DSPOOL_TEST_CGROUP2"), "root,service,container")
	if wanted == "all" {
		return "root,service,container,provider"
	}
	return wanted
}

// cacheDir keeps kernel and disk between runs.
func cacheDir(t *testing.T) string {
	t.Helper()
	user, _ := os.UserCacheDir()
	dir := filepath.Join(cmp.Or(os.Getenv("DSPOOL_TEST_CACHE"), filepath.Join(cmp.Or(user, os.TempDir()), "dspool")), "cgroup2")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildInitrd puts the programs, built afresh, and the kernel's modules together.
func buildInitrd(t *testing.T, dir string, linux kernel) string {
	t.Helper()
	goTool := func(verb []string, name string, cgo string, args ...string) string {
		file := filepath.Join(dir, name)
		cmd := exec.CommandContext(t.Context(), "../../scripts/go", slices.Concat(verb, []string{"-trimpath", "-ldflags", "-s -w", "-o", file}, args)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
		return file
	}
	build := func(name, cgo string, args ...string) string { return goTool([]string{"build"}, name, cgo, args...) }
	runc, err := filepath.Abs("../../bin/runc")
	if _, missing := os.Stat(runc); err != nil || missing != nil {
		runc = build("runc", "1", "-tags", "seccomp", "github.com/opencontainers/runc")
	}
	file := filepath.Join(dir, "initrd")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a := newArchive(f)
	a.addFile("guest", 0o755, build("guest", "0", "./testdata/guest"))
	a.addFile("bin/dspool", 0o755, build("dspool", "0", "../../cmd/dspool"))
	a.addFile("bin/runc", 0o755, runc)
	a.addFile("bin/runc.test", 0o755, goTool([]string{"test", "-c"}, "runc.test", "0", "../../internal/provider/runc"))
	a.addFile("bin/inmate", 0o755, build("inmate", "0", "../../internal/provider/runc/testdata/inmate"))
	a.addFile("guest.yaml", 0o644, "testdata/guest.yaml")
	a.add("host_rsa", 0o600, rsaKey(t)) // emulated processors would take a minute for one
	for i, module := range linux.load(t) {
		data, err := moduleData(t, module)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(filepath.Base(module), ".")
		a.add(fmt.Sprintf("modules/%03d-%s", i, name), 0o644, data)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	return file
}

// rsaKey makes a host key for a door.
func rsaKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

func tail(file string) []byte {
	data, _ := os.ReadFile(file)
	return data[max(0, len(data)-8000):]
}
