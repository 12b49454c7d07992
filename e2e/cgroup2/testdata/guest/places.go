package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const groupRoot = "/sys/fs/cgroup"

// cases goes through the places that a server may have. Later ones change the hierarchy in
// ways that cannot be taken back.
func cases() error {
	line, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	r := &reporter{line: line, place: "boot"}
	defer r.end()
	if !r.run("the computer is up", prepare) {
		return nil
	}
	wanted := strings.Split(argument("dspool.places"), ",")
	for _, p := range []struct {
		name string
		do   func(*reporter)
	}{
		{"root", inRoot},
		{"provider", func(r *reporter) { r.run("it passes its own tests", providerTests) }},
		{"service", inService},
		{"container", inContainer},
	} {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		r.place, r.broken = p.name, false
		p.do(r)
	}
	return nil
}

func prepare() string {
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		fail("ip: %v: %s", err, out)
	}
	must(os.WriteFile("/etc/hostname", []byte("guest\n"), 0o644))
	must(unix.Sethostname([]byte("guest")))
	_ = os.Remove("/etc/resolv.conf")
	must(os.WriteFile("/etc/resolv.conf", nil, 0o644))
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if n := strings.Count(string(mounts), " - cgroup"); n != 1 || !strings.Contains(string(mounts), " - cgroup2 ") {
		fail("%d hierarchies are mounted:\n%s", n, mounts)
	}
	return "controllers: " + read(groupRoot, "cgroup.controllers")
}

// inRoot: the server is where PID 1 is, as on a host with a simple init. The kernel allows
// processes there beside groups with controllers.
func inRoot(r *reporter) {
	s := begin(r, "/disk/root", place{dir: groupRoot})
	r.run("doctor finds nothing that is fatal", func() string {
		out, err := s.try("doctor", "--image-cache", imageCache)
		// The computer builds no images.
		if n := strings.Count(out, "MISSING"); n > 1 || (n == 1 && !strings.Contains(out, "mmdebstrap is not installed")) {
			fail("%v: %s", err, out)
		}
		return out
	})
	limited(r, s)
	pids(r, s)
	restarted(r, s)
	sound(r, s)
	end(r, s)
}

// providerTests runs the tests of internal/provider/runc, which elsewhere see version 1.
func providerTests() string {
	const tmp = "/disk/tmp"
	must(os.MkdirAll(tmp, 0o755))
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programs+"/runc.test", "-test.v", "-test.short", "-test.parallel=1")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "DSPOOL_TEST_RUNC="+programs+"/runc", "DSPOOL_TEST_INMATE="+programs+"/inmate")
	out, err := cmd.CombinedOutput()
	if err != nil {
		fail("%v: %s", err, out)
	}
	return string(out)
}

// inService: as systemd 252 runs a service with Delegate=yes, on a hierarchy mounted as it does.
func inService(r *reporter) {
	dir := filepath.Join(groupRoot, "system.slice/dspool.service")
	r.broken = !r.run("the hierarchy is as systemd makes it", func() string {
		must(unix.Mount("", groupRoot, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RELATIME, "nsdelegate,memory_recursiveprot"))
		for _, d := range []string{"init.scope", "user.slice", "system.slice/other.service", "system.slice/dspool.service"} {
			must(os.MkdirAll(filepath.Join(groupRoot, d), 0o755))
		}
		for _, pid := range []int{1, os.Getpid()} {
			must(write(filepath.Join(groupRoot, "init.scope"), "cgroup.procs", fmt.Sprint(pid)))
		}
		// What no unit asks for is not enabled, and what a delegated unit asks for only down to it.
		must(write(groupRoot, "cgroup.subtree_control", "-cpu -cpuset -io -hugetlb -rdma -misc +memory +pids"))
		must(write(filepath.Join(groupRoot, "system.slice"), "cgroup.subtree_control", "+memory +pids"))
		return "enabled: " + read(groupRoot, "cgroup.subtree_control")
	})
	p := place{dir: dir}
	r.broken = !r.run("people have keys", func() string {
		p.team = withPeople("/disk/service")
		return p.team
	}) || r.broken
	s := begin(r, "/disk/service", p)
	limited(r, s)
	r.run("limits stay when the service manager takes controllers back", func() string {
		job := s.submit("--size", "half", "--cpus", "0.5", "--", "sleep", "1000")
		s.running(job, 1)
		var took []string
		for _, c := range []string{"-cpu", "-cpuset", "-io"} {
			took = append(took, fmt.Sprint(c, ": ", write(groupRoot, "cgroup.subtree_control", c)))
		}
		for name, dir := range s.machines() {
			if read(dir, "memory.max") == fmt.Sprint(200<<20) && read(dir, "cpu.max") != "50000 100000" {
				fail("cpu.max of %s is %q", name, read(dir, "cpu.max"))
			}
		}
		s.do("job", "cancel", job)
		return strings.Join(took, ", ")
	})
	trees(r, s)
	people(r, s)
	clocks(r, s)
	restarted(r, s)
	sound(r, s)
	end(r, s)
}

// inContainer: the server sees a hierarchy whose root is its own group, and which is not the
// root to the kernel: no process may be where controllers are given to children.
func inContainer(r *reporter) {
	p := place{dir: filepath.Join(groupRoot, "system.slice/docker-4711.scope")}
	r.broken = !r.run("a container is there", func() string {
		must(os.MkdirAll(p.dir, 0o755))
		for _, d := range []string{groupRoot, filepath.Dir(p.dir)} {
			must(write(d, "cgroup.subtree_control", "+cpu +cpuset +io +memory +pids"))
		}
		p.wrap = []string{"unshare", "--mount", "--cgroup", "sh", "-c",
			"mount --make-rslave / && umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec sleep 1147"}
		first, closeGroup := p.command()
		defer closeGroup()
		must(first.Start())
		eventually("its first process runs", func() bool { return len(alive("sleep 1147")) == 1 })
		p.wrap = []string{"nsenter", "--mount", "--cgroup", "--target", fmt.Sprint(first.Process.Pid), "--"}
		return ""
	})
	s := begin(r, "/disk/container", p)
	r.run("the server has moved what was in the container's own group", func() string {
		if procs := read(p.dir, "cgroup.procs"); procs != "" {
			fail("left: %s", procs)
		}
		s.place.dir = filepath.Join(p.dir, "processes") // as the next process in the container
		return read(s.place.dir, "cgroup.procs")
	})
	limited(r, s)
	restarted(r, s)
	sound(r, s)
	end(r, s)
}

// begin starts a server; when it does not come up the place is done.
func begin(r *reporter, state string, p place) (s *server) {
	r.broken = !r.run("the server comes up", func() string {
		s = start(state, p)
		return s.ready()
	}) || r.broken
	return s
}

// end removes everything and looks for what is left.
func end(r *reporter, s *server) {
	r.run("nothing is left", func() string {
		s.stop(syscall.SIGTERM)
		uninstall, closeGroup := s.place.command(programs+"/dspool", "uninstall", "--state-dir", s.state)
		defer closeGroup()
		if out, err := uninstall.CombinedOutput(); err != nil {
			fail("uninstall: %v: %s", err, out)
		}
		if left := s.parent(); left != "" {
			fail("%s is left: %v", left, s.machines())
		}
		return ""
	})
	if s != nil && s.cmd != nil {
		_ = s.cmd.Process.Kill()
	}
}

// restarted: a server that is killed finds its machine and its task again.
func restarted(r *reporter, s *server) {
	r.run("a killed server's machines and tasks live on under the next", func() string {
		job := s.submit("--", "sh", "-c", "echo one; until test -e go; do sleep 0.2; done; echo two; cat /proc/self/cgroup")
		s.running(job, 1)
		before := s.machines()
		s.stop(syscall.SIGKILL)
		*s = *start(s.state, s.place)
		s.ready()
		if after := s.machines(); len(after) != len(before) {
			fail("machines before %v, after %v", before, after)
		}
		must(os.WriteFile(filepath.Join(s.taskDir(job), "go"), nil, 0o644))
		s.do("job", "wait", job)
		return s.do("job", "logs", job)
	})
}

// read returns what is in a control file, or the error.
func read(dir, file string) string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// write writes to a control file; several words are tried one by one, those that the kernel
// does not know are passed over.
func write(dir, file, value string) error {
	var errs []error
	for word := range strings.FieldsSeq(value) {
		err := os.WriteFile(filepath.Join(dir, file), []byte(word), 0)
		if errors.Is(err, unix.EINVAL) && file == "cgroup.subtree_control" {
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// alive are the pids of the whole computer's processes with that command line.
func alive(command string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " ")) == command {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
