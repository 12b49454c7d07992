package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// slurmTask is one measurement of Slurm.
type slurmTask struct {
	Dir, Name, Settings string
	Tasks               int
}

// slurmRun is how it went.
type slurmRun struct {
	Name, Settings, Version string
	Tasks                   int
	Took                    time.Duration
}

// slurmResult is Slurm at its best.
type slurmResult struct {
	best  slurmRun
	tried []slurmRun
}

// Slurm as a site would tune it for many short jobs. Slurm starts what waits right after a job's
// end only when an epilog reports that end, otherwise once a second: so there is one, the
// cheapest. Without batch_sched_delay=0 it would wait another three seconds.
const eager = "Epilog=/bin/true\nSchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0"

// slurmSettings are tried in turn; the fastest is the peer. With defer, and with what Slurm does
// unless told, the same array takes minutes.
var slurmSettings = []slurmTask{
	{Name: "sched/backfill, select/cons_tres", Settings: "SchedulerType=sched/backfill\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n" + eager + ",bf_interval=1"},
	{Name: "sched/builtin, select/cons_tres", Settings: "SchedulerType=sched/builtin\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n" + eager},
	{Name: "sched/builtin, select/linear", Settings: "SchedulerType=sched/builtin\nSelectType=select/linear\n" + eager},
}

// Everything listens on loopback in a network namespace without any other interface. There is
// no authentication, accounting or control group to slow it down. A finished task is written to
// a file of completions, which is how its end is seen: asking slurmctld would take its time.
const slurmConf = `
ClusterName=bench
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=6817
SlurmdPort=6818
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=%[1]s/state
SlurmdSpoolDir=%[1]s/spool/%%n
SlurmctldPidFile=%[1]s/slurmctld.pid
SlurmdPidFile=%[1]s/slurmd-%%n.pid
SlurmctldLogFile=%[1]s/slurmctld.log
SlurmdLogFile=%[1]s/slurmd-%%n.log
SlurmctldDebug=error
SlurmdDebug=error
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=%[1]s/completions
MpiDefault=none
ReturnToService=2
NodeName=node[1-4] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[7001-7004] CPUs=1 RealMemory=2048 State=UNKNOWN
PartitionName=bench Nodes=ALL Default=YES MaxTime=INFINITE State=UP
%[2]s
`

const (
	slurmStart  = time.Minute
	slurmFinish = 3 * time.Minute
	slurmPoll   = 10 * time.Millisecond
)

// measureSlurm runs the array with every setting.
func measureSlurm(ctx context.Context, o options, dir string) (*slurmResult, error) {
	for _, program := range []string{"slurmctld", "slurmd", "sbatch", "sinfo"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: install Debian's slurm-wlm", err)
		}
	}
	var r slurmResult
	for i, t := range slurmSettings {
		t.Dir, t.Tasks = filepath.Join(dir, fmt.Sprint(i)), o.tasks
		for _, d := range []string{"state", "spool", "out"} {
			if err := os.MkdirAll(filepath.Join(t.Dir, d), 0o755); err != nil {
				return nil, err
			}
		}
		progress("Slurm, %s: %d tasks", t.Name, t.Tasks)
		one, err := outside[slurmTask, slurmRun](ctx, "in-slurm", syscall.CLONE_NEWNET|syscall.CLONE_NEWUTS, t)
		if err != nil {
			return nil, err
		}
		progress("  %s", seconds(one.Took))
		if r.tried = append(r.tried, one); i == 0 || one.Took < r.best.Took {
			r.best = one
		}
	}
	return &r, nil
}

// inSlurm starts Slurm, runs the array once to warm up and once for the clock. Its daemons end
// with their pid namespace.
func inSlurm(ctx context.Context, t slurmTask) (r slurmRun, err error) {
	if err := loopback(); err != nil {
		return r, err
	}
	conf := filepath.Join(t.Dir, "slurm.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, slurmConf, t.Dir, t.Settings), 0o644); err != nil {
		return r, err
	}
	job := filepath.Join(t.Dir, "job")
	// The kernel runs /bin/true with the script's name: no shell in between.
	if err := os.WriteFile(job, []byte("#!/bin/true\n"), 0o755); err != nil {
		return r, err
	}
	if err := os.Setenv("SLURM_CONF", conf); err != nil {
		return r, err
	}
	if err := startSlurm(t.Dir); err != nil {
		return r, err
	}
	for _, tasks := range []int{min(20, t.Tasks), t.Tasks} {
		if r.Took, err = slurmArray(t.Dir, job, tasks); err != nil {
			return r, err
		}
	}
	version, err := exec.Command("slurmctld", "-V").Output()
	r.Name, r.Settings, r.Tasks, r.Version = t.Name, t.Settings, t.Tasks, strings.TrimSpace(string(version))
	return r, err
}

// loopback makes the only network that Slurm has. The second address is there because
// getaddrinfo(3) with AI_ADDRCONFIG, which Slurm uses, finds nothing where only 127.0.0.1 is.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	second, err := netlink.ParseAddr("127.0.0.2/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, second); err != nil {
		return fmt.Errorf("give loopback an address: %w", err)
	}
	return syscall.Sethostname([]byte("localhost"))
}

func startSlurm(dir string) error {
	daemons := [][]string{{"slurmctld", "-D", "-c"}}
	for i := range 4 {
		daemons = append(daemons, []string{"slurmd", "-D", "-N", fmt.Sprintf("node%d", i+1)})
	}
	for i, args := range daemons {
		out, err := os.Create(filepath.Join(dir, fmt.Sprintf("daemon%d.out", i)))
		if err != nil {
			return err
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = out, out
		err = cmd.Start()
		out.Close()
		if err != nil {
			return err
		}
		go func() { _ = cmd.Wait() }()
	}
	var idle []byte
	for end := time.Now().Add(slurmStart); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if idle, _ = exec.Command("sinfo", "-h", "-t", "idle", "-o", "%D").Output(); string(bytes.TrimSpace(idle)) == "4" {
			return nil
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "slurmctld.log"))
	return fmt.Errorf("slurm has not 4 idle nodes after %s; slurmctld says:\n%s", slurmStart, log)
}

// slurmArray is the time from submit until every task of an array has ended.
func slurmArray(dir, job string, tasks int) (time.Duration, error) {
	ends := completions{file: filepath.Join(dir, "completions")}
	if err := ends.read(); err != nil {
		return 0, err
	}
	before := ends.lines
	begun := time.Now()
	cmd := exec.Command("sbatch", "-D", filepath.Join(dir, "out"), fmt.Sprintf("--array=1-%d", tasks), job)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("sbatch: %w: %s", err, out)
	}
	for {
		err := ends.read()
		took := time.Since(begun)
		switch {
		case err != nil:
			return 0, err
		case ends.failed != "":
			return 0, fmt.Errorf("a task did not complete: %s", ends.failed)
		case ends.lines-before >= tasks:
			return took, nil
		case took > slurmFinish:
			return 0, fmt.Errorf("only %d of %d tasks ended within %s", ends.lines-before, tasks, slurmFinish)
		}
		time.Sleep(slurmPoll)
	}
}

// completions reads Slurm's file of ended tasks, each part once.
type completions struct {
	file   string
	offset int64
	rest   []byte // of a line that is not whole yet
	lines  int
	failed string
}

func (c *completions) read() error {
	f, err := os.Open(c.file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, c.offset, 1<<30))
	if err != nil {
		return err
	}
	c.offset += int64(len(data))
	c.rest = append(c.rest, data...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			return nil
		}
		if c.lines++; !bytes.Contains(line, []byte("JobState=COMPLETED")) {
			c.failed = string(line)
		}
		c.rest = rest
	}
}
