package activity_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/agent/activity"
	"github.com/dspool/dspool/internal/testkit"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// proc is a process with id pid whose parent is sshd (2), or p.Parent.
func proc(pid int, name string, args ...string) activity.Process {
	return activity.Process{PID: pid, Parent: 2, Begun: uint64(pid), Name: name, Args: append([]string{name}, args...), State: 'S', Leader: pid, Terminal: "pts/0"}
}

func child(p activity.Process, parent, leader int) activity.Process {
	p.Parent, p.Leader = parent, leader
	return p
}

func detached(p activity.Process, leader int) activity.Process {
	p.Terminal, p.Leader, p.Parent = "", leader, 1
	return p
}

func TestJudge(t *testing.T) {
	t.Parallel()
	sshd := activity.Process{PID: 2, Begun: 2, Name: "sshd-session", Args: []string{"sshd-session: alice@pts/0"}, State: 'S', Leader: 2}
	login := activity.Process{PID: 10, Parent: 2, Begun: 10, Name: "bash", Args: []string{"-bash"}, State: 'S', Leader: 10, Terminal: "pts/0"}
	tmux := detached(proc(20, "tmux: server", "new"), 20)
	inTmux := child(activity.Process{PID: 21, Begun: 21, Name: "bash", Args: []string{"-bash"}, State: 'S', Terminal: "pts/1"}, 20, 21)
	used := func(p activity.Process, d time.Duration) activity.Process { p.CPU = d; return p }
	state := func(p activity.Process, s byte) activity.Process { p.State = s; return p }
	old := activity.Terminal{Name: "pts/0", Input: at.Add(-activity.InputWindow)}
	type procs = []activity.Process
	for _, c := range []struct {
		claim       string
		before, now procs
		terminals   []activity.Terminal
		reason      string // "" is idle
	}{
		{"nothing is idle", nil, nil, nil, ""},
		{"a shell at its prompt is idle", nil, procs{sshd, login}, nil, ""},
		{"helpers are idle", nil, procs{sshd, login, detached(proc(30, "ssh-agent", "-s"), 30), proc(31, "sftp-server"), detached(proc(32, "gpg-agent"), 32)}, nil, ""},
		{"a shell that reads its other end is idle", nil, procs{sshd, detached(proc(11, "bash"), 11), detached(proc(12, "sh", "-l"), 12)}, nil, ""},
		{"a shell of an editor's terminal is idle", nil, procs{proc(11, "bash", "--init-file", "/x/shellIntegration.sh", "-i")}, nil, ""},
		{"a zombie is idle", nil, procs{login, state(proc(40, "python3", "a.py"), 'Z')}, nil, ""},
		{"recent input is activity", nil, procs{login}, []activity.Terminal{old, {Name: "pts/3", Input: at.Add(-activity.InputWindow + time.Second)}}, "input on terminal pts/3"},
		{"old input is none", nil, procs{login}, []activity.Terminal{old}, ""},
		{"an editor on a terminal lives", nil, procs{sshd, login, child(proc(41, "vim", "x.py"), 10, 10)}, nil, "vim runs on terminal pts/0"},
		{"a stopped program lives", nil, procs{login, state(child(proc(41, "vim"), 10, 10), 'T')}, nil, "vim is stopped on terminal pts/0"},
		{"what sleeps in the background lives", nil, procs{detached(proc(50, "sleep", "1000"), 10)}, nil, "sleep runs in the background"},
		{"what was set apart lives", nil, procs{login, detached(proc(50, "worker"), 50)}, nil, "worker runs in the background"},
		{"a command of a connection lives", nil, procs{sshd, child(detached(proc(51, "rsync", "--server"), 51), 2, 51)}, nil, "rsync runs on a connection"},
		{"also where sshd hides", nil, procs{{PID: 2, Hidden: true}, child(detached(proc(51, "rsync", "--server"), 51), 2, 51)}, nil, "rsync runs on a connection"},
		{"what hides is idle", nil, procs{{PID: 2, Hidden: true}, login}, nil, ""},
		{"a script in a shell lives", nil, procs{detached(proc(52, "bash", "train.sh"), 10)}, nil, "bash train.sh runs in the background"},
		{"a command in a shell lives", nil, procs{detached(proc(52, "sh", "-c", "while read x; do :; done"), 10)}, nil, "sh runs in the background"},
		{"an interpreter is named with its script", nil, procs{detached(proc(53, "python3", "-u", "/home/alice/digits/train.py", "--lr", "1"), 10)}, nil, "python3 train.py runs in the background"},
		{"and with its module", nil, procs{detached(proc(53, "python3", "-m", "http.server"), 10)}, nil, "python3 -m http.server runs in the background"},
		{"the oldest stands for its children", nil, procs{detached(proc(61, "cc1"), 10), detached(proc(60, "make"), 10)}, nil, "make runs in the background"},
		{"a detached tmux with idle shells is idle", nil, procs{tmux, inTmux}, nil, ""},
		{"a detached tmux with a program lives", nil, procs{tmux, inTmux, child(proc(22, "htop"), 21, 21)}, nil, "htop runs in tmux"},
		{"screen as well", nil, procs{detached(proc(20, "screen"), 20), child(proc(22, "less"), 20, 22)}, nil, "less runs in screen"},
		{"a busy process is named", procs{used(proc(70, "python3", "a.py"), time.Second)}, procs{used(proc(70, "python3", "a.py"), 5850*time.Millisecond)}, nil, "python3 a.py uses 97 % of a cpu"},
		{"more than one cpu is said so", procs{used(proc(70, "R"), 0)}, procs{used(proc(70, "R"), 20*time.Second)}, nil, "R uses 400 % of a cpu"},
		{"the busiest is named", procs{login}, procs{used(login, 100*time.Millisecond), used(proc(71, "cc1"), 3*time.Second)}, nil, "cc1 uses 60 % of a cpu"},
		{"a loop in a shell is busy", procs{login}, procs{used(login, 5*time.Second)}, nil, "bash uses 100 % of a cpu"},
		{"a percent is not busy", procs{login}, procs{used(login, 50*time.Millisecond)}, nil, ""},
		{"an old process is not judged by what it used before", procs{used(login, time.Hour)}, procs{used(login, time.Hour)}, nil, ""},
		{"a process id that is used again is another process", procs{used(proc(70, "python3"), time.Hour)},
			procs{func() activity.Process { p := used(proc(70, "bash"), time.Second); p.Begun = 99; return p }()}, nil, "bash uses 20 % of a cpu"},
		{"at a first look nothing is busy", nil, procs{used(login, time.Hour)}, nil, ""},
		{"names of users are made printable", nil, procs{detached(activity.Process{PID: 80, Name: "a\x1b[31m\n", Args: []string{"x"}, State: 'S'}, 80)}, nil, "a?[31m? runs in the background"},
		{"parents in a circle end", nil, procs{child(proc(90, "a"), 91, 10), child(proc(91, "b"), 90, 10)}, nil, "a runs in the background"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			t.Parallel()
			var before activity.Snapshot
			if c.before != nil {
				before = activity.Snapshot{At: at.Add(-5 * time.Second), Processes: c.before}
			}
			v := activity.Judge(before, activity.Snapshot{At: at, Processes: c.now, Terminals: c.terminals})
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

// A cause stays the same while only figures change, so that reports do not flutter.
func TestCauseIsSteady(t *testing.T) {
	t.Parallel()
	cause := func(cpu time.Duration) string {
		p := proc(70, "python3", "a.py")
		before := activity.Snapshot{At: at.Add(-5 * time.Second), Processes: []activity.Process{p}}
		p.CPU = cpu
		return activity.Judge(before, activity.Snapshot{At: at, Processes: []activity.Process{p}}).Cause
	}
	if a, b := cause(2*time.Second), cause(3*time.Second); a != b || a == cause(0) {
		t.Errorf("%q, %q, %q", a, b, cause(0))
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "1000")
	// A session of its own: the test's may be led from outside this process namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	const nobody = 1 << 30
	seen, unseen := activity.Processes([]int{cmd.Process.Pid, os.Getpid(), nobody})
	if len(seen) != 2 || len(unseen) != 1 || unseen[0] != nobody {
		t.Fatalf("%+v, %v", seen, unseen)
	}
	p := seen[0]
	if p.PID != cmd.Process.Pid || p.Parent != os.Getpid() || p.Leader != p.PID || p.Begun == 0 {
		t.Errorf("%+v", p)
	}
	if self := seen[1]; !strings.HasSuffix(self.Args[0], ".test") {
		t.Errorf("%+v", self)
	}
}

// A machine's clock is its host's, and may be set at any time.
func TestInputOnATerminalIsWhatCameSinceTheLookBefore(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	before := activity.Snapshot{}
	look := func(lived time.Duration, stamp time.Time) bool {
		now := activity.Snapshot{At: start.Add(lived), Terminals: []activity.Terminal{{Name: "pts/0", Stamp: stamp}}}
		now.Follow(before)
		before = now
		return activity.Judge(activity.Snapshot{}, now).Active
	}
	const minute = time.Minute
	for _, c := range []struct {
		what  string
		lived time.Duration
		stamp time.Time
		want  bool
	}{
		{"old when first seen", 0, start.Add(-6 * minute), false},
		{"input", minute, start.Add(minute), true},
		{"none since", 5 * minute, start.Add(minute), true},
		{"none for long", 6 * minute, start.Add(minute), false},
		{"input while the clock is a year ahead", 7 * minute, start.AddDate(1, 0, 0), true},
		{"none since it is right again", 12 * minute, start.AddDate(1, 0, 0), false},
		{"input while it is behind", 13 * minute, start.AddDate(-1, 0, 0), true},
		{"none since", 18 * minute, start.AddDate(-1, 0, 0), false},
	} {
		if got := look(c.lived, c.stamp); got != c.want {
			t.Errorf("%s: active is %v", c.what, got)
		}
	}
	before = activity.Snapshot{}
	if !look(0, start.AddDate(1, 0, 0)) || look(6*minute, start.AddDate(1, 0, 0)) {
		t.Error("a stamp from the future, first seen, is no input now and for five minutes")
	}
}
