package activity

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dspool/dspool"
)

// App is a program that dspool runs in a session. Its main process stands by: it lives by what it
// does for its user, which shows in CPU time, in its kernels and in what was started from them.
type App struct {
	Name string
	PID  int   // of its main process
	PIDs []int // of its whole tree
	// Jupyter says that it is a Jupyter server, whose kernels are judged by what it says of them.
	Jupyter bool
	Busy    bool      // a kernel runs a cell …
	Since   time.Time // … for so long
	Silent  bool      // it does not say how its kernels are, and was not silent for long
}

// steadySince is how long a cell runs before it is told since when.
const steadySince = time.Minute

// kernelFile is the connection file that a Jupyter server names to every kernel it starts, of
// whatever language; see jupyter_client's KernelManager.
var kernelFile = regexp.MustCompile(`\bkernel-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json\b`)

// servers are the programs, scripts and modules that are Jupyter servers.
var servers = []string{
	"jupyterhub-singleuser", "jupyter-labhub", "jupyter-lab", "jupyter-server", "jupyter-notebook", "jupyter-nbclassic",
	"jupyterhub.singleuser", "jupyterlab", "jupyter_server", "notebook", "dspool.singleuser",
}

// languageServers are started by extensions of Jupyter servers for as long as these run.
var languageServers = []string{"pylsp", "langserver", "language-server", "languageserver"}

// kernelBusy finds an app with a kernel that runs a cell.
func kernelBusy(now Snapshot) Verdict {
	for _, a := range now.Apps {
		if !a.Busy {
			continue
		}
		reason := dspool.Why(dspool.WhyRunsCell, dspool.ReasonParams{Name: a.Name})
		if now.At.Sub(a.Since) >= steadySince {
			reason.Since = a.Since.UTC().Truncate(time.Minute)
		}
		return Verdict{true, reason, "kernel " + a.Name}
	}
	return Verdict{}
}

// kernelSilent finds an app with a kernel of which nobody says that it is idle.
func kernelSilent(now Snapshot, byPID map[int]Process) Verdict {
	for _, a := range now.Apps {
		if !a.Silent {
			continue
		}
		for _, pid := range a.PIDs {
			if isKernel(byPID[pid]) {
				return Verdict{true, dspool.Why(dspool.WhyMayRunCell, dspool.ReasonParams{Name: a.Name}), "silent " + a.Name}
			}
		}
	}
	return Verdict{}
}

// ofApps returns the processes that stand by because they are an app's own: main processes, and
// of Jupyter servers also kernels and language servers. Those of servers that answer are known.
func ofApps(now Snapshot, byPID map[int]Process) (own, known map[int]bool) {
	own, known = map[int]bool{}, map[int]bool{}
	for _, a := range now.Apps {
		own[a.PID] = true
		if !a.Jupyter {
			continue
		}
		for _, pid := range a.PIDs {
			p := byPID[pid]
			own[pid] = own[pid] || isServer(p) || isKernel(p)
			known[pid] = own[pid] && !a.Silent
		}
		for _, pid := range a.PIDs {
			p := byPID[pid]
			own[pid] = own[pid] || own[p.Parent] && !isKernel(byPID[p.Parent]) && isLanguageServer(p)
		}
	}
	return own, known
}

func isKernel(p Process) bool { return slices.ContainsFunc(p.Args, kernelFile.MatchString) }

// isServer knows the program itself, and a script or module of an interpreter.
func isServer(p Process) bool {
	if len(p.Args) == 0 {
		return false
	}
	known := func(arg string) bool { return slices.Contains(servers, path.Base(arg)) }
	if known(p.Args[0]) {
		return true
	}
	if !interpreter(path.Base(p.Args[0])) {
		return false
	}
	for i, arg := range p.Args[1:] {
		switch {
		case arg == "-m":
			return i+2 < len(p.Args) && known(p.Args[i+2])
		case !strings.HasPrefix(arg, "-"):
			return known(arg)
		case arg == "-c":
			return false
		}
	}
	return false
}

func isLanguageServer(p Process) bool {
	return slices.ContainsFunc(p.Args, func(arg string) bool {
		return slices.ContainsFunc(languageServers, func(name string) bool { return strings.Contains(arg, name) })
	})
}

// trackers are processes that Python's multiprocessing and joblib keep beside a program until it ends.
var trackers = []string{"multiprocessing.resource_tracker", "multiprocessing.semaphore_tracker", "loky.backend.resource_tracker"}

func isTracker(p Process) bool {
	return slices.ContainsFunc(p.Args, func(arg string) bool {
		return slices.ContainsFunc(trackers, func(name string) bool { return strings.Contains(arg, name) })
	})
}
