package e2e_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdChaos kills server main and agents of its machines at moments that nobody chose, and starts
// the server again, for that long. Its end finds the server running.
func cmdChaos(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "chaos DURATION")
	long, err := time.ParseDuration(args[0])
	ts.Check(err)
	w := worldOf(ts)
	s := w.server("main")
	seed := uint64(time.Now().UnixNano())
	ts.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	kills, agents := 0, 0
	for end := time.Now().Add(long); time.Now().Before(end); kills++ {
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
		if random.IntN(3) == 0 {
			agents += killAgents(s)
		}
		ts.Check(s.end(syscall.SIGKILL))
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		ts.Check(w.start(s, false))
	}
	ts.Logf("killed the server %d times and agents %d times", kills, agents)
}

func killAgents(s *server) (killed int) {
	for _, pid := range processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if bytes.HasSuffix(cmdline, []byte("\x00agent\x00")) && bytes.Contains(cgroup, []byte("/dspool-"+s.installation+"/")) && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}
