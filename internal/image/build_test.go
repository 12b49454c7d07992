package image_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/image"
)

// patience is how long a test waits for something that must come.
const patience = 2 * time.Minute

// A real base image is built once; most tests build layers on it, in one cache.
var (
	cacheDir string
	baseOnce sync.Once
	baseErr  error
)

const baseRecipe = "base: {suite: trixie}\n"

func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGE_TEST_BUILD"); dir != "" {
		buildAsChild(dir, os.Getenv("IMAGE_TEST_RECIPE"))
		return
	}
	var err error
	if cacheDir, err = os.MkdirTemp("", "image-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(cacheDir)
	os.Exit(code)
}

// buildAsChild is another process that builds: it prints progress line by line.
func buildAsChild(dir, recipe string) {
	r, err := image.LoadRecipe(recipe)
	if err == nil {
		var s *image.Store
		if s, err = image.NewStore(dir, image.Options{}); err == nil {
			_, err = s.Build(context.Background(), r, func(p image.Progress) { fmt.Println(p.What) })
		}
	}
	fmt.Println("ended:", err)
}

func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: -short builds no images")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: building images needs root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: mmdebstrap is missing; apt-get install mmdebstrap")
	}
}

func newStore(t *testing.T) *image.Store {
	t.Helper()
	s, err := image.NewStore(cacheDir, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// layer writes a recipe NAME.yaml on top of the shared base and loads it.
func layer(t *testing.T, text string) (*image.Store, image.Recipe) {
	t.Helper()
	needRoot(t)
	s := newStore(t)
	name := fmt.Sprintf("layer%d", layers.Add(1))
	dir := write(t, map[string]string{"base.yaml": baseRecipe, name + ".yaml": "from: base\n" + text})
	r := load(t, filepath.Join(dir, name+".yaml"))
	baseOnce.Do(func() { _, baseErr = s.Build(context.Background(), *r.Parent, nil) })
	if baseErr != nil {
		t.Fatalf("the base image of these tests: %v", baseErr)
	}
	return s, r
}

var layers atomic.Int64

// clean fails the test if a build of key left a temporary directory or a mount.
func clean(t *testing.T, key string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(cacheDir, "tmp", key+".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), key) {
		t.Errorf("a mount is left: %v", err)
	}
}

func read(t *testing.T, img image.Image, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(img.Dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestBuildBase(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newStore(t)
	dir := write(t, map[string]string{"first.yaml": baseRecipe +
		"packages: [procps]\nfiles: [{path: /opt/x/y, content: hello, mode: 0640}]\nrun: [\"ps -e >/opt/ps; echo \\\"$PWD $HOME $DEBIAN_FRONTEND $LANG\\\" >/opt/env\"]\n"})
	r := load(t, filepath.Join(dir, "first.yaml"))
	seen, last := map[int]bool{}, image.Progress{}
	img, err := s.Build(t.Context(), r, func(p image.Progress) {
		if p.Image != "first" || p.Step < last.Step || p.Steps < 8 || p.Fraction < 0 || p.Fraction > 1 || p.What == "" {
			t.Errorf("progress %+v after %+v", p, last)
		}
		seen[p.Step], last = true, p
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != last.Steps || last.Step != last.Steps {
		t.Errorf("saw steps %v of %d", seen, last.Steps)
	}
	if img.Name != "first" || img.Key != r.Key() || img.Bytes < 50<<20 || img.Bytes > 500<<20 || time.Since(img.Built) > patience {
		t.Errorf("image is %+v", img)
	}
	if got := read(t, img, "etc/dspool-image"); got != "NAME=first\nKEY="+r.Key()+"\n" {
		t.Errorf("/etc/dspool-image is %q", got)
	}
	if got := read(t, img, "opt/env"); got != "/root /root noninteractive C.UTF-8\n" {
		t.Errorf("the step ran in %q", got)
	}
	if got := read(t, img, "opt/ps"); strings.Count(got, "\n") > 6 {
		t.Errorf("the step saw processes that are not the build's:\n%s", got)
	}
	if info, err := os.Stat(filepath.Join(img.Dir, "opt/x/y")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("file of the recipe: %v %v", info, err)
	}
	for _, empty := range []string{"etc/machine-id", "etc/resolv.conf"} {
		if got := read(t, img, empty); got != "" {
			t.Errorf("/%s is not empty: %q", empty, got)
		}
	}
	for _, gone := range []string{"usr/sbin/policy-rc.d", "etc/apt/apt.conf.d/00dspool-build", "dev/null", "etc/apt/apt.conf.d/00mmdebstrap"} {
		if _, err := os.Lstat(filepath.Join(img.Dir, gone)); err == nil {
			t.Errorf("/%s is still there", gone)
		}
	}
	for _, pattern := range []string{"var/lib/apt/lists/*Packages*", "var/cache/apt/archives/*.deb", "home/*", "mnt/*", "tmp/*", "dev/*", "etc/ssh/ssh_host_*"} {
		if left, _ := filepath.Glob(filepath.Join(img.Dir, pattern)); len(left) > 0 {
			t.Errorf("left in the image: %v", left)
		}
	}
	clean(t, r.Key())

	again, err := s.Build(t.Context(), r, func(p image.Progress) { t.Errorf("a second build does something: %+v", p) })
	if err != nil || again != img {
		t.Errorf("a second build returns %+v, %v", again, err)
	}
}

func TestBuildLayer(t *testing.T) {
	t.Parallel()
	s, r := layer(t, `
files: [{path: /etc/motd, content: "new\n"}]
run:
  - rm -r /etc/skel /etc/debian_version && echo more >>/etc/issue
  - rm -r /etc/pam.d && mkdir -m 0750 /etc/pam.d && echo only >/etc/pam.d/only
  - chown daemon:daemon /etc/issue.net && chmod 4711 /usr/bin/env
  - ln /usr/bin/env /usr/bin/env2 && ln -sf nowhere /etc/shells
  - touch /tmp/x /run/x && (sleep 1000 &)
  - ln -s /proc/self/fd/1 /opt/out
`)
	base, err := s.Lookup(r.Parent.Key())
	if err != nil {
		t.Fatal(err)
	}
	before := listing(t, base.Dir)
	img, err := s.Build(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if after := listing(t, base.Dir); after != before {
		t.Error("the build of a layer changed its parent")
	}
	for _, gone := range []string{"etc/skel", "etc/debian_version", "etc/pam.d/su", "tmp/x", "run/x"} {
		if _, err := os.Lstat(filepath.Join(img.Dir, gone)); err == nil {
			t.Errorf("/%s is still there", gone)
		}
	}
	if got := read(t, img, "etc/issue"); got != read(t, base, "etc/issue")+"more\n" {
		t.Errorf("/etc/issue is %q", got)
	}
	if got := read(t, img, "etc/motd") + read(t, img, "etc/pam.d/only"); got != "new\nonly\n" {
		t.Errorf("files are %q", got)
	}
	stat := func(name string) syscall.Stat_t {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(img.Dir, name), &st); err != nil {
			t.Error(err)
		}
		return st
	}
	if st := stat("etc/issue.net"); st.Uid != 1 || st.Gid != 1 {
		t.Errorf("/etc/issue.net belongs to %d:%d", st.Uid, st.Gid)
	}
	if st := stat("etc/pam.d"); st.Mode&0o7777 != 0o750 {
		t.Errorf("/etc/pam.d has mode %o", st.Mode)
	}
	if a, b := stat("usr/bin/env"), stat("usr/bin/env2"); a.Mode&0o7777 != 0o4711 || a.Ino != b.Ino {
		t.Errorf("/usr/bin/env is %+v, env2 %+v", a, b)
	}
	if link, _ := os.Readlink(filepath.Join(img.Dir, "etc/shells")); link != "nowhere" {
		t.Errorf("/etc/shells leads to %q", link)
	}
	if st := stat("usr/bin/bash"); st.Nlink < 2 {
		t.Error("an unchanged file is a copy, not a link to the parent's")
	}
	if got := read(t, img, "etc/dspool-image"); !strings.Contains(got, r.Key()) {
		t.Errorf("/etc/dspool-image is %q", got)
	}
	clean(t, r.Key())
}

// listing describes every file of a tree but link counts, which layers raise.
func listing(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", "%P %y %m %U %G %s %T@ %l %i\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestBuildLayerWithPackages(t *testing.T) {
	t.Parallel()
	s, r := layer(t, "packages: [hello]\nrun: [hello >/opt/said]\n")
	var fetched, setUp atomic.Bool
	at := 0
	img, err := s.Build(t.Context(), r, func(p image.Progress) {
		if p.Step != at && p.Step != at+1 || p.Step > p.Steps {
			t.Errorf("step %d comes after %d", p.Step, at)
		}
		at = p.Step
		if strings.HasPrefix(p.What, "fetch 1 of 1") {
			fetched.Store(true)
		}
		if p.What == "set up hello" && p.Fraction == 1 {
			setUp.Store(true)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, img, "opt/said"); got != "Hello, world!\n" || !fetched.Load() || !setUp.Load() {
		t.Errorf("said %q, fetched %v, set up %v", got, fetched.Load(), setUp.Load())
	}
	if left, _ := filepath.Glob(filepath.Join(img.Dir, "var/lib/apt/lists/*Packages*")); len(left) > 0 {
		t.Errorf("left in the image: %v", left)
	}
}

func TestBuildNamesTheFailingStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		claim, text string
		want        []string
	}{
		{"a run step half-way", "run:\n  - 'true'\n  - |\n    echo first\n    echo the disk ate it >&2\n    false\n    echo never\n  - touch /etc/third\n",
			[]string{"step 3 of", "run step 2: echo first …", "the disk ate it", "exit status 1", ".log"}},
		{"a command that is not there", "run: [frobnicate --now]\n", []string{"run step 1: frobnicate --now", "not found", "exit status 127"}},
		{"a file where a directory is", "files: [{path: /etc/apt, content: x}]\n", []string{"(files)", "etc/apt"}},
		{"a package that does not exist", "packages: [no-such-package-here]\n", []string{"a package is not in this suite", "E: Unable to locate package no-such-package-here", "correct packages:"}},
		{"an account of a person", "run: [\"echo 'eve:x:1000:1000::/:/bin/sh' >>/etc/passwd\"]\n", []string{"(finish)", "accounts of people: eve"}},
		{"a file of a person", "run: [touch /opt/f; chown 20001 /opt/f]\n", []string{`"/opt/f" in the image belongs to 20001:0`, "chown root:root"}},
		{"a step that tears out /dev", "run: [rm -rf /usr/share/doc; umount /dev/pts || exit 7]\n", []string{"exit status 7"}},
		{"a step that would mount", "run: [mount -t tmpfs none /opt]\n", []string{"run step 1", "permission denied"}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			s, r := layer(t, c.text)
			_, err := s.Build(t.Context(), r, nil)
			if err == nil {
				t.Fatal("the build succeeded")
			}
			for _, want := range append(c.want, "build image "+r.Name+": step ", s.LogFile(r.Key())) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q:\n%v", want, err)
				}
			}
			if dspool.ErrorCode(err) != dspool.Invalid {
				t.Errorf("code is %s", dspool.ErrorCode(err))
			}
			if strings.Contains(err.Error(), "never") {
				t.Errorf("the step went on after it failed: %v", err)
			}
			if _, err := s.Lookup(r.Key()); dspool.ErrorCode(err) != dspool.NotFound {
				t.Errorf("after the failure the image is found: %v", err)
			}
			clean(t, r.Key())
		})
	}
}

func TestBuildSaysThatTheNetworkIsAway(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newStore(t)
	// Nothing listens on port 1 of loopback.
	dir := write(t, map[string]string{"lost.yaml": baseRecipe + "mirror: http://127.0.0.1:1/debian\n"})
	r := load(t, filepath.Join(dir, "lost.yaml"))
	_, err := s.Build(t.Context(), r, nil)
	if dspool.ErrorCode(err) != dspool.Unavailable {
		t.Fatalf("error is %v", err)
	}
	for _, want := range []string{"packages cannot be fetched from the package mirror http://127.0.0.1:1/debian", "check the network", "step 1 of"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	clean(t, r.Key())
}

func TestBuildSaysThatTheBuilderIsMissing(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	dir := write(t, map[string]string{"bare.yaml": baseRecipe})
	r := load(t, filepath.Join(dir, "bare.yaml"))
	t.Setenv("PATH", dir)
	_, err := s.Build(t.Context(), r, nil)
	if dspool.ErrorCode(err) != dspool.Unavailable || !strings.Contains(err.Error(), "apt-get install mmdebstrap") {
		t.Errorf("error is %v", err)
	}
	fixes := ""
	for _, f := range image.Check(t.Context(), dir) {
		fixes += f.Fix + "\n"
	}
	if !strings.Contains(fixes, "apt-get install mmdebstrap") {
		t.Errorf("check says %q", fixes)
	}
	clean(t, r.Key())
}
