package browser_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestClosedBrowser goes home while a cell runs.
func TestClosedBrowser(t *testing.T) {
	p := inLab(t, "carol")
	p.notebook()
	p.save("long.ipynb")
	p.cell("import os, time\nprint('begun', 'in', os.getpid()); time.sleep(6)\nopen('result.txt', 'w').write('ready'); answer = 42")
	p.outputs("begun in ")
	p.keysSave()
	machine := machineOf(t, "carol")
	p.shut()

	// It runs on, and the session is alive by what runs in it: nothing printed, nobody is there.
	wait(t, cellTimeout, func() error {
		for _, s := range pool.sessions(t, "carol") {
			if s.Active && s.Connections == 0 {
				return nil
			}
		}
		return errStill
	})
	wait(t, cellTimeout, func() error {
		got, err := pool.trySSH(t.Context(), "carol", "cat result.txt")
		if err == nil && got != "ready" {
			return errStill
		}
		return err
	})

	q := visitor(t, "carol")
	q.open(home("carol") + "/lab/tree/long.ipynb")
	q.logIn("carol")
	q.labHere("carol")
	q.kernel()
	q.outputs("begun in ")
	q.cell("print('the answer is', answer)")
	q.outputs("the answer is 42")
	if now := machineOf(t, "carol"); now != machine {
		t.Errorf("the session was on %s and is on %s", machine, now)
	}
}

// TestClosedLid lets a computer sleep while a cell runs: its page shows what was printed meanwhile once it is awake.
func TestClosedLid(t *testing.T) {
	t.Parallel()
	// A computer of its own, because all of it sleeps.
	laptop, err := newBrowser(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { laptop.close() })
	p := visitorOf(t, laptop, "grace")
	p.open(pool.hub)
	p.logIn("grace")
	p.labHere("grace")
	p.notebook()
	// It prints once the notebook server has noticed that the page does not answer, which takes up to half a minute.
	p.cell("import os, time\nprint('lid open')\nwhile not os.path.exists('dark'): time.sleep(.1)\n\nprint('printed', 'in the dark'); os.rename('dark', 'printed')")
	p.outputs("lid open")

	processes := family(chromedp.FromContext(laptop.ctx).Browser.Process().Pid)
	for _, pid := range processes {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	log := fmt.Sprintf("%s/shares/home/grace/.local/state/dspool/jupyter.log", pool.state)
	slept := eventually(90*time.Second, func() error {
		text, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(text), "Starting buffering") {
			return errStill
		}
		return err
	})
	if slept == nil {
		_, slept = pool.trySSH(t.Context(), "grace", "touch dark; until [ -e printed ]; do sleep 0.1; done")
	}
	for _, pid := range processes {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	if slept != nil {
		t.Fatal("the notebook server does not notice that the page sleeps: ", slept)
	}
	p.within(backTimeout, "what was printed in the dark", `[...document.querySelectorAll(".jp-OutputArea-output")].some(o => o.innerText.includes("printed in the dark"))`)
}

// family is a process with all its descendants.
func family(pid int) []int {
	all := []int{pid}
	entries, _ := os.ReadDir("/proc")
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil {
			continue
		}
		// PID (NAME) STATE PARENT, and a name may contain anything.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}
