package browser_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/internal/gateway"
)

// backTimeout is how long a page may take to notice that it lost its connections and to have them again.
const backTimeout = 90 * time.Second

// TestRestarts kills the parts between a browser and a kernel while a notebook is open: no part's end
// costs anything of the notebook.
func TestRestarts(t *testing.T) {
	p := inLab(t, "frank")
	p.notebook()
	p.cell("import os, time; me = os.getpid(); print('kernel', me)")
	p.outputs("kernel ")
	kernel := must[string](p.tab, `[...document.querySelectorAll(".jp-OutputArea-output")].map(o => o.innerText).join("").match(/kernel (\d+)/)[1]`)
	p.save("restarts.ipynb")
	app, err := pool.app("frank")
	if err != nil {
		t.Fatal(err)
	}
	// unharmed runs a cell in the page as it is, without a reload.
	unharmed := func(t *testing.T, word string) {
		t.Helper()
		p.cell("print('" + word + " in', me, os.getpid() == me)")
		p.outputs(word + " in " + kernel + " True")
		now, err := pool.app("frank")
		if err != nil {
			t.Fatal(err)
		}
		if now.ID != app.ID || now.State != dspool.AppRunning || now.Port != app.Port {
			t.Errorf("the notebook server was app %+v and is app %+v", app, now)
		}
	}

	p.claim("a gateway that is killed: the page comes back by itself to the same kernel", func(t *testing.T) {
		old, err := gateway.ReadStatus(t.Context(), pool.state)
		if err != nil {
			t.Fatal(err)
		}
		p.cell("time.sleep(4); print('said', 'while nobody could hear it')")
		if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		if _, err := pool.awaitGateway(func(g gateway.Status) bool { return g.PID != old.PID }); err != nil {
			t.Fatal(err)
		}
		t.Logf("the next gateway after %.1f s", time.Since(killed).Seconds())
		p.within(backTimeout, "the output of meanwhile", `[...document.querySelectorAll(".jp-OutputArea-output")].some(o => o.innerText.includes("said while nobody could hear it"))`)
		t.Logf("the page has its output after %.1f s", time.Since(killed).Seconds())
		unharmed(t, "gateway")
	})

	p.claim("a server that is killed: the page does not notice", func(t *testing.T) {
		if err := pool.end(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.cell("print('no server,', 'no matter')")
		p.outputs("no server, no matter")
		if err := pool.serve(); err != nil {
			t.Fatal(err)
		}
		unharmed(t, "server")
		p.reopened("frank", "restarts.ipynb")
		unharmed(t, "reload")
	})

	p.claim("a JupyterHub that is killed: it begins anew, and the server stays routed", func(t *testing.T) {
		old := hubProcess(t)
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		unharmed(t, "no hub")
		wait(t, hubTimeout, func() error {
			app, err := pool.app(dspool.HubUser)
			if err == nil && (app.State != dspool.AppRunning || findHub() == 0 || findHub() == old) {
				return fmt.Errorf("JupyterHub is %s: %s", app.State, app.Reason)
			}
			return err
		})
		other := p.another()
		other.open(pool.hub + "/hub/home")
		other.until("JupyterHub's page, and the server in it", `document.querySelector("#start")?.innerText.includes("My Server") && document.querySelector("#stop")`)
		other.open(pool.hub + "/hub/user-redirect/lab")
		other.labHere("frank")
		p.reopened("frank", "restarts.ipynb")
		unharmed(t, "hub")
	})
}

// hubProcess is the number that JupyterHub's process has on this host.
func hubProcess(t *testing.T) int {
	t.Helper()
	pid := findHub()
	if pid == 0 {
		t.Fatal("JupyterHub has no process")
	}
	return pid
}

func findHub() int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if bytes.Contains(cmdline, []byte("\x00jupyterhub\x00-f\x00")) && bytes.Contains(cgroup, []byte("/dspool-"+pool.installation+"/")) {
			return pid
		}
	}
	return 0
}
