package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// show prints a task's own group and the files of it that matter.
const show = `d=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); echo group $(cat /proc/self/cgroup)
for f in memory.max memory.swap.max cpu.max cpu.weight pids.max; do echo $f $(cat $d/$f); done; nproc; for i in 1 2 3 4 5 6 7 8 9; do test $(cat /proc/$$/oom_score_adj) = 500 && break; sleep 0.3; done; echo score $(cat /proc/$$/oom_score_adj)`

// limited: tasks and machines have the limits they should, and cannot change them.
func limited(r *reporter, s *server) {
	r.broken = !r.run("a job runs in a group of its own, with a fraction of a cpu", func() string {
		out := s.do("run", "--cpus", "0.25", "--memory", "100MiB", "--", "sh", "-c", show)
		for _, want := range []string{"group 0::/dspool-slot-", "memory.max 104857600", "memory.swap.max 0", "cpu.max 25000 100000", "cpu.weight 25", "pids.max 4096", "score 500"} {
			if !strings.Contains(out, want) {
				fail("no %q in:\n%s", want, out)
			}
		}
		return out
	}) || r.broken
	r.run("a machine's group has the machine's limits", func() string {
		s.do("run", "--size", "half", "--cpus", "0.5", "--", "true")
		var seen []string
		for name, dir := range s.machines() {
			got := fmt.Sprintf("memory %s swap %s cpu %s pids %s cores %s", read(dir, "memory.max"), read(dir, "memory.swap.max"),
				read(dir, "cpu.max"), read(dir, "pids.max"), read(dir, "cpuset.cpus"))
			seen = append(seen, name+": "+got)
			whole := fmt.Sprintf("memory %d swap 0 cpu max 100000 pids 8192 cores 0", 320<<20)
			half := fmt.Sprintf("memory %d swap 0 cpu 50000 100000 pids 8192 cores 0", 200<<20)
			if got != whole && got != half {
				fail("%s: %s; neither %s nor %s", name, got, whole, half)
			}
			if procs := read(dir, "cgroup.procs"); procs != "" {
				fail("%s holds processes itself: %s", name, procs)
			}
		}
		if len(seen) != 2 {
			fail("machines: %v", seen)
		}
		return strings.Join(seen, "\n") + "\n" + s.parent()
	})
	r.run("a machine's root divides its group but cannot raise or leave it", func() string {
		name, dir := s.anyMachine()
		var before []string
		files := []string{"memory.max", "cpu.max", "pids.max", "cpuset.cpus"}
		for _, file := range files {
			before = append(before, read(dir, file))
		}
		out, err := s.asRoot(name, `cd /sys/fs/cgroup; for f in `+strings.Join(files, " ")+`; do ! echo max 2>/dev/null >$f || { echo wrote $f; exit 1; }; done
set -e; mkdir own; echo 1000000 >own/memory.max; cat own/memory.max; cat /proc/self/cgroup`)
		if err != nil || !strings.Contains(out, "999424") {
			fail("%v: %s", err, out)
		}
		for i, file := range files {
			if after := read(dir, file); after != before[i] {
				fail("%s was %s, is %s", file, before[i], after)
			}
		}
		return out
	})
	r.run("a user cannot touch groups", func() string {
		return s.do("run", "--cpus", "0.25", "--", "sh", "-c", `d=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
for f in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/dspool-init/cgroup.procs $d/cgroup.procs; do ! echo $$ 2>/dev/null >$f || { echo moved to $f; exit 1; }; done
! echo max 2>/dev/null >$d/memory.max || { echo raised; exit 1; }
! mkdir $d/x 2>/dev/null || { echo made; exit 1; }`)
	})
	r.run("nobody in a machine can make a user namespace", func() string {
		must(exec.Command("cp", "/guest", filepath.Join(s.state, "shares/team/guest")).Run())
		out := s.do("run", "--cpus", "0.25", "--", "/mnt/team/guest", "clone3")
		name, _ := s.anyMachine()
		o, err := s.asRoot(name, "/mnt/team/guest clone3")
		if err != nil {
			fail("root: %v: %s", err, o)
		}
		return out + "\n" + o
	})
	r.run("out of memory is named with the limit", func() string {
		out, err := s.try("run", "--cpus", "0.25", "--memory", "64MiB", "--", "python3", "-c", "x = b'x' * (100 << 20)")
		if err == nil || !strings.Contains(out, "out of memory (limit 64 MiB)") {
			fail("%v: %s", err, out)
		}
		// The slot's counter is from now on 1: the next is not blamed for it.
		out, err = s.try("run", "--cpus", "0.25", "--memory", "64MiB", "--", "sh", "-c", "exit 3")
		if err == nil || strings.Contains(out, "memory") {
			fail("the next task: %v: %s", err, out)
		}
		return out
	})
	r.run("four tasks run at once, each in its own group", func() string {
		job := s.submit("--array", "1-4", "--cpus", "0.25", "--memory", "40MiB", "--", "sh", "-c",
			`hostname; cat /proc/self/cgroup; mkdir -p ../met; touch ../met/$DSPOOL_TASK_INDEX; until test $(ls ../met | wc -l) = 4; do sleep 0.2; done`)
		s.do("job", "wait", job)
		groups := map[string]bool{}
		for i := 1; i <= 4; i++ {
			out, err := os.ReadFile(filepath.Join(filepath.Dir(s.taskDir(job)), fmt.Sprint(i), "stdout.txt"))
			must(err)
			groups[string(out)] = true
		}
		if len(groups) != 4 {
			fail("groups: %v", groups)
		}
		return ""
	})
}

// sound: nothing went wrong on the way that trying again has hidden.
func sound(r *reporter, s *server) {
	r.run("no machine failed", func() string {
		var all []struct {
			Name, State string
			Failure     struct{ Code, Text string }
		}
		s.decode(&all, "machine", "list", "--all", "-o", "json")
		for _, m := range all {
			if m.Failure.Code != "" || m.State == "failed" {
				fail("%+v", all)
			}
		}
		return ""
	})
}

// trees: what a task starts ends with it, also where it hides, and frozen.
func trees(r *reporter, s *server) {
	const program = "setsid sleep 4711 & (setsid sleep 4711 & ) ; sh -c 'trap \"\" TERM; setsid setsid sleep 4711 & sleep 4711' & wait"
	r.run("cancel ends the whole tree", func() string {
		job := s.submit("--cpus", "0.25", "--", "sh", "-c", program)
		s.running(job, 1)
		eventually("the tree is there", func() bool { return len(alive("sleep 4711")) == 4 })
		s.do("job", "cancel", job)
		s.try("job", "wait", job)
		eventually("the tree is gone", func() bool { return len(alive("sleep 4711")) == 0 })
		return s.do("job", "show", job)
	})
	r.run("a time limit ends the whole tree", func() string {
		out, err := s.try("run", "--cpus", "0.25", "--time-limit", "3s", "--", "sh", "-c", program)
		if err == nil || !strings.Contains(out, "time limit") {
			fail("%v: %s", err, out)
		}
		eventually("the tree is gone", func() bool { return len(alive("sleep 4711")) == 0 })
		return out
	})
	r.run("a machine is removed with its processes frozen", func() string {
		job := s.submit("--cpus", "0.25", "--", "sh", "-c", program)
		s.running(job, 1)
		eventually("the tree is there", func() bool { return len(alive("sleep 4711")) == 4 })
		machine, dir := s.machineOf("sleep 4711")
		slots, _ := filepath.Glob(filepath.Join(dir, "dspool-slot-*"))
		if len(slots) == 0 {
			fail("no slot in %s", dir)
		}
		for _, slot := range slots {
			must(os.WriteFile(filepath.Join(slot, "cgroup.freeze"), []byte("1"), 0))
		}
		s.do("machine", "remove", machine, "--force")
		if _, err := os.Stat(dir); err == nil {
			fail("%s is left", dir)
		}
		if n := len(alive("sleep 4711")); n != 0 {
			fail("%d processes are left", n)
		}
		return s.do("job", "show", job)
	})
}

// pids: a task cannot take all of the machine's processes.
func pids(r *reporter, s *server) {
	r.run("a task's threads are limited", func() string {
		return s.do("run", "--cpus", "0.5", "--memory", "200MiB", "--", "python3", "-c", `
import _thread
_thread.stack_size(65536)
lock, n = _thread.allocate_lock(), 0
lock.acquire()
try:
    while n < 5000:
        _thread.start_new_thread(lock.acquire, ())
        n += 1
except RuntimeError as e:
    print(n, e)
import os
assert 4000 < n < 4096, n
os._exit(0)`)
	})
}

// running waits until so many of the job's tasks run.
func (s *server) running(job string, n int64) {
	eventually("job "+job+" runs", func() bool {
		var j struct {
			State string
			Tasks struct{ Running int64 }
		}
		s.decode(&j, "job", "show", job, "-o", "json")
		if j.State == "failed" {
			fail("%s", s.describe())
		}
		return j.Tasks.Running == n
	})
}

// taskDir is the directory of the job's task 0.
func (s *server) taskDir(job string) string {
	return filepath.Join(s.state, "shares/team/jobs/ada", job, "0")
}

// machineOf is the machine in which a process with that command line runs, and its group.
func (s *server) machineOf(command string) (name, dir string) {
	for _, pid := range alive(command) {
		path, _ := strings.CutPrefix(read("/proc/"+pid, "cgroup"), "0::")
		for name, dir := range s.machines() {
			if strings.HasPrefix(groupRoot+path, dir+"/") {
				return name, dir
			}
		}
	}
	fail("%q runs in no machine", command)
	return "", ""
}

func (s *server) anyMachine() (name, dir string) {
	for name, dir := range s.machines() {
		return name, dir
	}
	fail("there is no machine: %s", s.describe())
	return "", ""
}

// asRoot runs a script in a machine as its root.
func (s *server) asRoot(machine, script string) (string, error) {
	return output(programs+"/runc", "--root", filepath.Join(s.state, "runc/runc"), "exec", machine, "sh", "-c", script)
}
