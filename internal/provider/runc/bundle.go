package runc

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dspool/dspool/internal/provider"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where a machine finds its init, and where init's output goes.
const (
	selfInMachine = "/run/dspool/dspool"
	logInMachine  = "run/dspool/init.log"
)

// capabilities are enough for sshd with PAM and sudo; none of them reaches outside
// the machine's own user namespace. Mounting, networking, tracing are not among them.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_SETFCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_AUDIT_WRITE", "CAP_MKNOD",
}

// writeBundle writes the container's configuration.
func writeBundle(cfg Config, g groups, spec provider.MachineSpec, cores []int, usersPath string) error {
	config, err := bundle(cfg, g, spec, cores, usersPath)
	if err != nil {
		return err
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(machineDir(cfg, spec.Name), "config.json"), data, 0o600)
}

func bundle(cfg Config, g groups, spec provider.MachineSpec, cores []int, usersPath string) (*specs.Spec, error) {
	s := stageOf(cfg)
	caps := &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	config := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: s.root()},
		Hostname: spec.Name,
		Process: &specs.Process{
			Args: cfg.Init, Cwd: "/",
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "container=dspool"},
			Capabilities: caps,
			OOMScoreAdj:  oomScore(),
		},
		Mounts: mounts(cfg, s, spec),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.UserNamespace, Path: usersPath},
			},
			CgroupsPath: g.path(spec.Name),
			Resources:   resources(cfg, g, spec, cores),
			// The kernel compares the host's ids: from the first user's, which is its own, to the last of the
			// machine's private range, which lies above and has the machine's root.
			Sysctl: map[string]string{"net.ipv4.ping_group_range": fmt.Sprintf("%d 65534", spec.UIDs.First)},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	// Moby's default profile for these capabilities (Apache-2.0).
	var err error
	if config.Linux.Seccomp, err = seccomp.GetDefaultProfile(config); err != nil {
		return nil, fmt.Errorf("make seccomp profile: %w", err)
	}
	if g.v2 {
		allowClone3(config.Linux.Seccomp)
	}
	return config, nil
}

// allowClone3 lets init start a task inside its group, for which version 2 has no other way.
// The profile hides the call because its flags cannot be filtered as clone's are; but in a
// machine's user namespace there can be no other (see newUserNamespace), and for other
// namespaces nobody in it has the capability.
func allowClone3(profile *specs.LinuxSeccomp) {
	for i, rule := range profile.Syscalls {
		if slices.Equal(rule.Names, []string{"clone3"}) {
			profile.Syscalls[i] = specs.LinuxSyscall{Names: rule.Names, Action: specs.ActAllow}
		}
	}
}

func mounts(cfg Config, s stage, spec provider.MachineSpec) []specs.Mount {
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec", "hidepid=2"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=1m"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", spec.Resources.Memory/2)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "nodev", "noexec"}},
		{Destination: "/dev/fuse", Type: "bind", Source: filepath.Join(s.dev(), "fuse"), Options: []string{"bind", "nosuid", "noexec"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "nodev", "noexec", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "nodev", "noexec", "relatime", "rw"}},
		{Destination: "/run", Type: "bind", Source: s.run(), Options: []string{"bind", "nosuid", "nodev"}},
		{Destination: selfInMachine, Type: "bind", Source: cfg.Self, Options: []string{"bind", "ro", "nosuid", "nodev"}},
	}
	return append(list, shares(s, spec.Mounts)...)
}

// shares are the mounts of shares and of what covers parts of them, what is above first.
func shares(s stage, mounts []provider.Mount) []specs.Mount {
	var list []specs.Mount
	for _, m := range mounts {
		if m.Empty {
			continue
		}
		options := []string{"rbind", "rnosuid", "rnodev", "rslave"}
		if m.ReadOnly {
			options = append(options, "rro")
		}
		list = append(list, specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: options})
	}
	for i, target := range covers(mounts) {
		list = append(list, specs.Mount{Destination: target, Type: "bind", Source: s.empty(i), Options: []string{"bind", "nosuid", "nodev", "noexec"}})
	}
	slices.SortStableFunc(list, func(a, b specs.Mount) int {
		return cmp.Compare(strings.Count(a.Destination, "/"), strings.Count(b.Destination, "/"))
	})
	return list
}

func resources(cfg Config, g groups, spec provider.MachineSpec, cores []int) *specs.LinuxResources {
	const period = 100_000 // µs
	memory, cpus := spec.Resources.Memory, spec.Resources.CPUs
	shares, pids := uint64(max(2, math.Round(1024*cpus))), cfg.PIDs
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "rw"},
		},
		Memory: &specs.LinuxMemory{Limit: &memory},
		CPU:    &specs.LinuxCPU{Shares: &shares, Cpus: formatCores(cores)},
		Pids:   &specs.LinuxPids{Limit: &pids},
	}
	if float64(len(cores)) > cpus {
		r.CPU.Period, r.CPU.Quota = new(uint64(period)), new(int64(max(1000, math.Round(cpus*period))))
	}
	if g.swapLimited() {
		r.Memory.Swap = &memory // of memory and swap together: no swap
	}
	return r
}

// swapLimited says whether the kernel can limit swap.
func (g groups) swapLimited() bool {
	if g.v2 {
		return true
	}
	_, err := os.Stat(filepath.Join(g.controllers["memory"], "memory.memsw.limit_in_bytes"))
	return err == nil
}

// oomScore is 0 unless that would need a capability to lower our own.
func oomScore() *int {
	data, _ := os.ReadFile("/proc/self/oom_score_adj")
	score := 0
	_, _ = fmt.Sscan(string(data), &score)
	return new(max(score, 0))
}

// hostMemory is the host's memory in bytes.
func hostMemory() int64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
