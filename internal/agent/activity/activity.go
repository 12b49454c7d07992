// Package activity judges from a machine's processes and terminals whether anything of a
// user's session lives. Judge is pure; Processes and Terminals read the machine.
//
// What lives: whatever uses the CPU, terminals with recent input, and every program that is
// neither an idle shell nor one of the helpers that merely stand by (sshd, ssh-agent, a tmux
// server). Sleeping is no sign of being done: a program that waits was left to wait. Apps are another
// matter: a Jupyter server and its kernels wait for their user, and a kernel that runs a cell lives
// even when it sleeps.
package activity

import (
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// Process is one of a session's.
type Process struct {
	PID, Parent int
	Begun       uint64 // clock ticks after boot; with PID it names a process for ever
	Name        string // the kernel's, at most 15 bytes
	Args        []string
	State       byte // R, S, D, T, Z…
	Leader      int  // process id of its session's leader
	Terminal    string
	CPU         time.Duration // used so far
	// Hidden says that only PID is known, as of sshd's processes and of ssh-agent.
	Hidden bool
}

// Terminal is one of the user's.
type Terminal struct {
	Name  string    // such as pts/3
	Stamp time.Time // the last time that a program read from it, by a clock that may have been set since
	Input time.Time // the same, by that of looks: see [Snapshot.Follow]
}

// Snapshot is a session at a moment.
type Snapshot struct {
	At        time.Time
	Processes []Process
	Terminals []Terminal
	Apps      []App
}

// Follow finds out when there was input on the terminals: when their stamp had changed since the look before.
// Only one that is new is taken at its stamp's word.
func (s *Snapshot) Follow(before Snapshot) {
	known := map[string]Terminal{}
	for _, t := range before.Terminals {
		known[t.Name] = t
	}
	for i := range s.Terminals {
		t := &s.Terminals[i]
		switch b, ok := known[t.Name]; {
		case !ok:
			t.Input = s.At.Add(-max(0, s.At.Sub(t.Stamp)))
		case b.Stamp.Equal(t.Stamp):
			t.Input = b.Input
		default:
			t.Input = s.At
		}
	}
}

// Verdict is whether anything lives, and why. Cause is the same as long as the
// reason is in essence the same.
type Verdict struct {
	Active bool
	Reason dspool.Reason
	Cause  string
}

// Limits of the verdict.
const (
	InputWindow = 5 * time.Minute // input on a terminal counts for so long
	BusyShare   = 0.01            // of a cpu, from which on a process counts as busy
	// ServerShare is that of a Jupyter server that answers, and of its kernels: what an open browser
	// tab asks of it all day (up to 0.6 % were measured) is no work.
	ServerShare = 0.05
)

// Judge looks at a session as it is now; before is how it was at the look before, or zero.
func Judge(before, now Snapshot) Verdict {
	// A cell says more than the CPU that it uses, and less often something else.
	if v := kernelBusy(now); v.Active {
		return v
	}
	byPID := map[int]Process{}
	for _, p := range now.Processes {
		byPID[p.PID] = p
	}
	apps, known := ofApps(now, byPID)
	if v := busy(before, now, known); v.Active {
		return v
	}
	var lives []Process
	for _, p := range now.Processes {
		if !standsBy(p) && !apps[p.PID] {
			lives = append(lives, p)
		}
	}
	if len(lives) == 0 {
		if v := kernelSilent(now, byPID); v.Active {
			return v
		}
		for _, t := range now.Terminals {
			if now.At.Sub(t.Input) < InputWindow {
				return Verdict{true, dspool.Why(dspool.WhyInput, dspool.ReasonParams{Terminal: t.Name}), "input " + t.Name}
			}
		}
		return Verdict{Reason: dspool.Reason{Code: dspool.WhyNothingRuns}}
	}
	// The oldest is most likely what the user started, the rest its children.
	p := slices.MinFunc(lives, func(a, b Process) int {
		if a.Begun != b.Begun {
			return int(int64(a.Begun - b.Begun))
		}
		return a.PID - b.PID
	})
	return Verdict{true, dspool.Why(where(p, byPID), dspool.ReasonParams{Name: p.title(), Terminal: p.Terminal}), "lives " + p.Name}
}

// busy finds the process that used most of the CPU since before. Those in known say themselves what
// they do for their user.
func busy(before, now Snapshot, known map[int]bool) Verdict {
	span := now.At.Sub(before.At)
	if before.At.IsZero() || span <= 0 {
		return Verdict{}
	}
	type identity struct {
		pid   int
		begun uint64
	}
	used := map[identity]time.Duration{}
	for _, p := range before.Processes {
		used[identity{p.PID, p.Begun}] = p.CPU
	}
	var most Process
	var share float64
	for _, p := range now.Processes {
		s := float64(p.CPU-used[identity{p.PID, p.Begun}]) / float64(span)
		least := BusyShare
		if known[p.PID] {
			least = ServerShare
		}
		if s > max(share, least) {
			most, share = p, s
		}
	}
	if share == 0 {
		return Verdict{}
	}
	percent := max(2, int64(math.Round(share*100)))
	return Verdict{true, dspool.Why(dspool.WhyUsesCPU, dspool.ReasonParams{Name: most.title(), Count: percent}), "busy " + most.Name}
}

// helpers stand by for something else and are no sign of life. tmux and screen are, by what
// runs in them.
var helpers = []string{
	"sshd", "sshd-session", "sshd-auth", "sftp-server", "ssh-agent", "gpg-agent", "scdaemon", "keyboxd", "dirmngr",
	"dbus-daemon", "dbus-launch", "dbus-broker", "systemd", "(sd-pam)", "login",
	"tmux: server", "tmux: client", "tmux", "screen", "SCREEN", "dtach", "abduco", "mosh-server",
}

var shells = []string{"bash", "sh", "dash", "zsh", "fish", "ksh", "mksh", "ash", "csh", "tcsh", "xonsh", "nu"}

// standsBy says that a process by itself is no sign of life.
func standsBy(p Process) bool {
	return p.Hidden || p.State == 'Z' || p.State == 'X' || slices.Contains(helpers, p.Name) || waitingShell(p) || isTracker(p)
}

// waitingShell is a shell that reads commands from its terminal or from its other end, not
// from a script: what it runs shows as processes of their own.
func waitingShell(p Process) bool {
	if !slices.Contains(shells, p.Name) || len(p.Args) == 0 {
		return false
	}
	for i := 1; i < len(p.Args); i++ {
		switch arg := p.Args[i]; {
		case slices.Contains([]string{"--init-file", "--rcfile", "-o", "+o", "-O", "+O"}, arg):
			i++ // and its value
		case strings.HasPrefix(arg, "--"):
		case !strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "+"), strings.Contains(arg, "c"):
			return false // a script, or -c command
		}
	}
	return true
}

// where says how a living process hangs on to the machine.
func where(p Process, byPID map[int]Process) dspool.ReasonCode {
	connected := false
	for q, n := p, 0; n < 64; n++ {
		parent, ok := byPID[q.Parent]
		if !ok {
			break
		}
		switch parent.Name {
		case "tmux: server":
			return dspool.WhyRunsInTmux
		case "SCREEN", "screen":
			return dspool.WhyRunsInScreen
		case "sshd", "sshd-session":
			connected = true
		}
		connected = connected || parent.Hidden // sshd, most likely
		q = parent
	}
	_, leader := byPID[p.Leader]
	switch {
	case p.Terminal != "" && leader && p.State == 'T':
		return dspool.WhyStopped
	case p.Terminal != "" && leader:
		return dspool.WhyRunsTerminal
	case connected:
		return dspool.WhyRunsConnected
	}
	return dspool.WhyRunsBehind
}

// title is what people call the program: of an interpreter also the script.
func (p Process) title() string {
	name := printable(p.Name)
	if len(p.Args) > 1 && interpreter(p.Name) {
		for i, arg := range p.Args[1:] {
			if arg == "-m" && i+2 < len(p.Args) {
				return name + " -m " + printable(p.Args[i+2])
			}
			if !strings.HasPrefix(arg, "-") {
				return name + " " + printable(path.Base(arg))
			}
			if arg == "-c" {
				break
			}
		}
	}
	return name
}

func interpreter(name string) bool {
	return strings.HasPrefix(name, "python") || slices.Contains([]string{"Rscript", "R", "perl", "ruby", "node", "julia", "java"}, name) || slices.Contains(shells, name)
}

// printable cuts what a user chose to what may stand in a sentence.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return s
}
