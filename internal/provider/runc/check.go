package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/provider"
	"golang.org/x/sys/unix"
)

// Check says what this host lacks for machines of a provider with this configuration.
func Check(ctx context.Context, cfg Config) []provider.Finding {
	var findings []provider.Finding
	add := func(subject string, fatal bool, err error, found, fix string) {
		f := provider.Finding{Subject: subject, OK: err == nil, Fatal: fatal && err != nil, Detail: found}
		if err != nil {
			f.Detail, f.Fix = err.Error(), fix
		}
		findings = append(findings, f)
	}
	var root error
	if os.Geteuid() != 0 {
		root = errors.New("not root")
	}
	add("root", true, root, "running as root", "run the server as root")
	version, err := runcVersion(ctx, cfg.Runc)
	add("runc", true, err, version, "build it: go build -tags seccomp github.com/opencontainers/runc (needs libseccomp-dev and a C compiler)")
	add("kernel", true, kernelAtLeast(5, 19), "new enough for overlays over id-mapped images", "use Linux 5.19 or newer")
	groups, err := openGroups("check")
	if err == nil {
		err = groups.usable()
	}
	add("control groups", true, err, "mounted", "mount control groups at /sys/fs/cgroup")
	add("overlay", true, fileSystem(ctx, "overlay"), "supported", "modprobe overlay")
	err = loopDevices(ctx)
	add("machines' disks", false, err, "limited in size by loop devices", "give the server /dev/loop-control, ext4 and mkfs.ext4 (package e2fsprogs)")
	if err != nil {
		findings[len(findings)-1].Detail += ": machines' disks have no size limit"
	}
	add("inotify", false, atLeast("/proc/sys/fs/inotify/max_user_instances", 512), "enough instances",
		"sysctl fs.inotify.max_user_instances=1024: that many file watchers fit in one machine")
	add("dspool binary", true, executableByAll(cfg.Self), "machines can run it", "chmod 755 the binary")
	return findings
}

// Check says what this host lacks.
func (p *Provider) Check(ctx context.Context) []provider.Finding { return Check(ctx, p.cfg) }

var (
	runcNumber = regexp.MustCompile(`runc version (\d+)\.(\d+)\S*`)
	sizedDisks = sync.OnceValue(func() bool { return loopDevices(context.Background()) == nil })
)

// disksWork says whether machines' disks can be limited in size here.
func disksWork() bool { return sizedDisks() }

func runcVersion(ctx context.Context, runc string) (string, error) {
	out, err := exec.CommandContext(ctx, runc, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w", runc, err)
	}
	m := runcNumber.FindStringSubmatch(string(out))
	if m == nil {
		return "", fmt.Errorf("%s does not say its version", runc)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < 1 || (major == 1 && minor < 2) {
		return "", fmt.Errorf("%s is older than 1.2", m[0])
	}
	if !strings.Contains(string(out), "libseccomp") {
		return "", fmt.Errorf("%s is built without seccomp", m[0])
	}
	return m[0], nil
}

func kernelAtLeast(major, minor int) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	release := unix.ByteSliceToString(u.Release[:])
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return fmt.Errorf("kernel %s: %w", release, err)
	}
	if a < major || (a == major && b < minor) {
		return fmt.Errorf("kernel %s is older than %d.%d", release, major, minor)
	}
	return nil
}

func fileSystem(ctx context.Context, name string) error {
	has := func() bool {
		data, _ := os.ReadFile("/proc/filesystems")
		return strings.Contains(string(data), "\t"+name+"\n")
	}
	if !has() {
		_ = exec.CommandContext(ctx, "modprobe", name).Run()
	}
	if !has() {
		return fmt.Errorf("the kernel has no file system %s", name)
	}
	return nil
}

func loopDevices(ctx context.Context) error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no loop devices: %w", err)
	}
	control.Close()
	if err := fileSystem(ctx, "ext4"); err != nil {
		return err
	}
	_, err = mkfs()
	return err
}

func atLeast(file string, want int) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err != nil || n < want {
		return fmt.Errorf("%s is %s", filepath.Base(file), strings.TrimSpace(string(data)))
	}
	return nil
}

func executableByAll(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o055 != 0o055 && info.Mode().Perm()&0o005 != 0o005 {
		return dspool.Errorf(dspool.Invalid, "%s has mode %v: a machine's root, who is nobody here, cannot run it", file, info.Mode().Perm())
	}
	return nil
}
