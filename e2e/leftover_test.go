package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
)

// leftovers says what of the server's installation is still on the host.
func leftovers(s *server) (found []string) {
	say := func(format string, args ...any) {
		found = append(found, "left on the host: "+fmt.Sprintf(format, args...))
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/dspool-" + s.installation)
	group, _ := filepath.Glob("/sys/fs/cgroup/dspool-" + s.installation)
	for _, g := range append(groups, group...) {
		say("control group %s", g)
	}
	links, err := net.Interfaces()
	if err != nil {
		say("? %v", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "dsp"+s.installation) {
			say("network interface %s", l.Name)
		}
	}
	if routes, err := os.ReadFile("/proc/net/route"); err != nil || bytes.Contains(routes, []byte("dsp"+s.installation)) {
		say("a route (%v)", err)
	}
	if conn, err := nftables.New(); err != nil {
		say("? %v", err)
	} else if tables, err := conn.ListTables(); err != nil {
		say("? %v", err)
	} else {
		for _, t := range tables {
			if strings.Contains(t.Name, s.installation) {
				say("nft table %s", t.Name)
			}
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if file, _ := os.ReadFile(l); bytes.HasPrefix(file, []byte(s.state+"/")) {
			say("loop device of %s", bytes.TrimSpace(file))
		}
	}
	for _, pid := range processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if len(cmdline) == 0 {
			continue // a dead one that the host has not reaped yet
		}
		switch {
		case bytes.Contains(cgroup, []byte("/dspool-"+s.installation)):
			say("process %d of a machine: %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		case bytes.Contains(cmdline, []byte(s.state+"\x00")):
			say("process %d: %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		case bytes.Contains(mounts, []byte(s.state+"/")):
			say("a mount of %s, held by process %d: %s", s.state, pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		}
	}
	return found
}

func processes() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
