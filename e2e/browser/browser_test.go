// Package browser drives the real thing with a real browser: headless Chromium comes in through the web
// door of a pool whose configuration is examples/team.yaml, meets the portal, JupyterHub and JupyterLab
// on real machines, and plays what people and attackers do there.
//
// All tests share one server; every story has users of its own. With DSPOOL_SCREENSHOTS=1 the
// pictures in docs/screenshots are taken anew.
package browser_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

// pool is what the tests look at; chrome is what they look with.
var (
	pool   *world
	chrome *browserProcess
)

func TestMain(m *testing.M) {
	flag.Parse()
	if why := unfit(); why != "" {
		fmt.Println("SKIPPED: e2e/browser:", why)
		return
	}
	os.Exit(run(m))
}

// unfit says what this computer lacks.
func unfit() string {
	switch {
	case testing.Short():
		return "end to end needs real machines (-short)"
	case runtime.GOOS != "linux" || os.Geteuid() != 0:
		return "end to end needs real machines, which only root on Linux can make"
	}
	return ""
}

func run(m *testing.M) (code int) {
	fail := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "FAIL: %s: %v\n", what, err)
			code = 1
		}
	}
	if _, err := exec.LookPath("chromium"); err != nil {
		fail("find a browser", fmt.Errorf("%w: run `scripts/deps test`", err))
		return code
	}
	var err error
	pool, err = newWorld()
	if err != nil {
		fail("make a work directory", err)
		return code
	}
	defer func() { fail("leave the host as it was", pool.remove(code != 0)) }()
	interrupted, stop := onInterrupt()
	defer stop()
	if err := pool.start(); err != nil {
		fail("start the pool", err)
		return code
	}
	if err := pool.populate(); err != nil {
		fail("make users", err)
		return code
	}
	chrome, err = newBrowser(context.Background(), pool.work)
	if err != nil {
		fail("start Chromium", err)
		return code
	}
	defer func() { fail("end Chromium", chrome.close()) }()
	ended := make(chan int, 1)
	go func() { ended <- m.Run() }()
	select {
	case code = <-ended:
	case <-interrupted:
		code = 1
	case <-expiring():
		fmt.Fprintln(os.Stderr, "FAIL: the tests are not done in their time")
		code = 1
	}
	return code
}

// cleanUpTime is how long before the end that `go test -timeout` sets everything is removed from the host.
const cleanUpTime = time.Minute

func expiring() <-chan time.Time {
	f := flag.Lookup("test.timeout")
	if f == nil {
		return nil
	}
	all, err := time.ParseDuration(f.Value.String())
	if err != nil || all <= cleanUpTime {
		return nil
	}
	return time.After(all - cleanUpTime)
}
