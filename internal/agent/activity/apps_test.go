package activity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/agent/activity"
	"github.com/dspool/dspool/internal/testkit"
)

const connection = "/home/alice/.local/share/jupyter/runtime/kernel-4c5a2b6e-8f0d-4a57-9a36-1c3a5d0f7b21.json"

func TestJudgeApps(t *testing.T) {
	t.Parallel()
	main := detached(proc(100, "jupyterhub-sing", "/opt/jupyter/bin/jupyterhub-singleuser", "--port=41234"), 100)
	main.Args = main.Args[1:]
	under := func(parent int, p activity.Process) activity.Process { p.Parent = parent; return p }
	kernel := under(100, detached(proc(101, "python3", "-m", "ipykernel_launcher", "-f", connection), 101))
	irkernel := under(100, detached(proc(102, "R", "--no-echo", "-e", "IRkernel::main()", "--args", connection), 102))
	shell := under(100, activity.Process{PID: 110, Begun: 110, Name: "bash", Args: []string{"/bin/bash", "-l"}, State: 'S', Leader: 110, Terminal: "pts/4"})
	used := func(p activity.Process, d time.Duration) activity.Process { p.CPU = d; return p }
	type procs = []activity.Process
	idle := procs{main, kernel, irkernel, shell}
	with := func(more ...activity.Process) procs { return append(append(procs{}, idle...), more...) }
	jupyter := activity.App{Name: "jupyter", PID: 100, Jupyter: true}
	busy, silent, other := jupyter, jupyter, jupyter
	busy.Busy, busy.Since = true, at.Add(-2*time.Second)
	silent.Silent = true
	other.Jupyter = false
	long := busy
	long.Since = at.Add(-5 * time.Hour)
	for _, c := range []struct {
		claim       string
		app         activity.App
		before, now procs
		terminals   []activity.Terminal
		reason      string
	}{
		{"a server with idle kernels and a terminal is idle", jupyter, nil, idle, nil, ""},
		{"a kernel that runs a cell lives, however little it does", busy, idle, idle, nil, "a kernel of jupyter runs a cell"},
		{"a long cell is told since when", long, idle, idle, nil, "a kernel of jupyter runs a cell since 2026-03-01 07:00 UTC"},
		{"a cell is told before the CPU that it uses", busy, idle, procs{main, used(kernel, 4*time.Second)}, nil, "a kernel of jupyter runs a cell"},
		{"a thread that an idle kernel left behind is seen by its CPU", jupyter, idle, procs{main, used(kernel, 4*time.Second)}, nil, "python3 -m ipykernel_launcher uses 80 % of a cpu"},
		{"a server that works is busy", jupyter, idle, procs{used(main, 4*time.Second), kernel}, nil, "jupyterhub-sing uses 80 % of a cpu"},
		{"what an open browser tab asks of a server is no work", jupyter, idle, procs{used(main, 150*time.Millisecond), used(kernel, 150*time.Millisecond)}, nil, ""},
		{"a little CPU of a silent server may be work", silent, idle, procs{main, used(kernel, 150*time.Millisecond)}, nil, "python3 -m ipykernel_launcher uses 3 % of a cpu"},
		{"a little CPU of what a notebook started is work", jupyter, with(under(101, detached(proc(120, "python3", "train.py"), 101))), with(used(under(101, detached(proc(120, "python3", "train.py"), 101)), 150*time.Millisecond)), nil, "python3 train.py uses 3 % of a cpu"},
		{"a kernel of a silent server may be busy", silent, nil, idle, nil, "a kernel of jupyter may run a cell: its server does not answer"},
		{"a silent server without kernels is idle", silent, nil, procs{main, shell}, nil, ""},
		{"what a notebook started in the background lives", jupyter, nil, with(under(101, detached(proc(120, "python3", "train.py"), 101))), nil, "python3 train.py runs in the background"},
		{"what a notebook set apart lives", jupyter, nil, with(detached(proc(120, "worker"), 120)), nil, "worker runs in the background"},
		{"a program on a JupyterLab terminal lives", jupyter, nil, with(under(110, activity.Process{PID: 120, Begun: 120, Name: "htop", Args: []string{"htop"}, State: 'S', Leader: 110, Terminal: "pts/4"})), nil, "htop runs on terminal pts/4"},
		{"input on a JupyterLab terminal is activity", jupyter, nil, idle, []activity.Terminal{{Name: "pts/4", Input: at.Add(-time.Minute)}}, "input on terminal pts/4"},
		{"a tracker of multiprocessing is idle", jupyter, nil, with(under(101, detached(proc(120, "python3", "-c", "from multiprocessing.resource_tracker import main;main(33)"), 101))), nil, ""},
		{"a language server of the server is idle", jupyter, nil, with(under(100, detached(proc(120, "python3", "/opt/jupyter/bin/pylsp"), 120))), nil, ""},
		{"one that the user started is not", jupyter, nil, with(under(101, detached(proc(120, "python3", "/opt/jupyter/bin/pylsp"), 120))), nil, "python3 pylsp runs in the background"},
		{"a kernel that is started through a wrapper is idle", jupyter, nil, with(under(100, detached(proc(120, "conda", "run", "-n", "lab", "python", "-m", "ipykernel_launcher", "-f", connection), 120))), nil, ""},
		{"a server behind a wrapper is idle", activity.App{Name: "jupyter", PID: 99, Jupyter: true}, nil, procs{detached(proc(99, "sh", "-c", "start"), 99), under(99, main), kernel}, nil, ""},
		{"a module that is a server is idle", activity.App{Name: "jupyter", PID: 99, Jupyter: true}, nil, procs{detached(proc(98, "python3", "-Xfrozen_modules=off", "-m", "jupyterhub.singleuser"), 98)}, nil, ""},
		{"a script that is called like one is none", jupyter, nil, with(under(101, detached(proc(120, "python3", "train.py", "notebook"), 101))), nil, "python3 train.py runs in the background"},
		{"an app that is no Jupyter server stands by", other, nil, procs{main}, nil, ""},
		{"what it starts lives", other, nil, procs{main, kernel}, nil, "python3 -m ipykernel_launcher runs in the background"},
		{"a kernel outside an app lives", activity.App{Name: "hub", PID: 1}, nil, procs{kernel}, nil, "python3 -m ipykernel_launcher runs in the background"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			a := c.app
			if len(c.now) > 0 && a.Name == "jupyter" {
				for _, p := range c.now {
					a.PIDs = append(a.PIDs, p.PID)
				}
			}
			var before activity.Snapshot
			if c.before != nil {
				before = activity.Snapshot{At: at.Add(-5 * time.Second), Processes: c.before}
			}
			v := activity.Judge(before, activity.Snapshot{At: at, Processes: c.now, Terminals: c.terminals, Apps: []activity.App{a}})
			want := c.reason
			if want == "" {
				want = "nothing runs"
			}
			if v.Active != (c.reason != "") || testkit.Text(v.Reason) != want {
				t.Errorf("%v, %q", v.Active, testkit.Text(v.Reason))
			}
		})
	}
}

func TestCauseOfCellIsSteady(t *testing.T) {
	t.Parallel()
	var causes []string
	for _, d := range []time.Duration{0, time.Second, time.Hour} {
		v := activity.Judge(activity.Snapshot{}, activity.Snapshot{At: at.Add(d), Apps: []activity.App{{Name: "jupyter", Jupyter: true, Busy: true, Since: at}}})
		causes = append(causes, v.Cause)
	}
	if causes[0] == "" || strings.Join(causes, "") != strings.Repeat(causes[0], 3) {
		t.Errorf("%q", causes)
	}
}
