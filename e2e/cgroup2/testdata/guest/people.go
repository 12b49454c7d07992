package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	keys    = "/disk/keys" // a folder with a key pair for each who logs in
	hostKey = "/etc/dspool/host_rsa"
	door    = "2222"
	lab     = `
  lab: {kind: interactive, image: guest, sizes: [half], max: 1, shares: [home, team], internet: false, policy: {sessions_per_machine: 2, idle_after: 1h, start_timeout: 80s}}
doors: [{listen: "127.0.0.1:` + door + `", protocol: ssh, pool: lab}]
`
)

// withPeople is the team with a pool that ada and bob log in to, for a server whose state lies in dir.
func withPeople(dir string) string {
	must(os.MkdirAll(keys, 0o700))
	must(os.MkdirAll(dir, 0o711))
	must(os.MkdirAll(filepath.Join(dir, "gateway"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "gateway/host_rsa"), []byte(read("/", hostKey)+"\n"), 0o600))
	var users []string
	for _, name := range []string{"ada", "bob"} {
		if out, err := output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(keys, name)); err != nil {
			fail("ssh-keygen: %v: %s", err, out)
		}
		users = append(users, fmt.Sprintf("{name: %s, keys: [%q]}", name, read(keys, name+".pub")))
	}
	text := strings.Replace(team, "list: [ada]", "list: ["+strings.Join(users, ", ")+"]", 1)
	return strings.TrimRight(text, "\n") + lab
}

// ssh is OpenSSH's client.
func ssh(user, command string) (string, error) {
	return output("ssh", "-F", "none", "-p", door, "-i", filepath.Join(keys, user), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+filepath.Join(keys, "known_hosts"), user+"@127.0.0.1", command)
}

// people log in through the door, and each has a group of their own on the machine.
func people(r *reporter, s *server) {
	const held = "sleep 5281"
	var dir string // the group of ada's session
	r.broken = !r.run("somebody logs in with OpenSSH, into a group of the session", func() string {
		out, err := ssh("ada", "id -un; "+show+"; nohup "+held+" >/dev/null 2>&1 &")
		if err != nil {
			fail("%v: %s\n%s\n%s", err, out, s.describe(), read(s.state, "gateway/gateway.log"))
		}
		for _, want := range []string{"ada\n", "group 0::/dspool-slot-", "memory.max " + strconv.Itoa(100<<20), "memory.swap.max 0", "pids.max 4096"} {
			if !strings.Contains(out, want) {
				fail("no %q in:\n%s", want, out)
			}
		}
		eventually("what was left running is there", func() bool { return len(alive(held)) == 1 })
		path, _ := strings.CutPrefix(read("/proc/"+alive(held)[0], "cgroup"), "0::")
		dir = groupRoot + path
		if name, machine := s.machineOf(held); !strings.HasPrefix(dir, machine+"/dspool-slot-") {
			fail("in %s, not in a group of machine %s", dir, name)
		}
		return out
	}) || r.broken
	r.run("a fork bomb stays in its user's group while another logs in", func() string {
		// The limit is lowered, because emulated processors would take minutes to reach it.
		must(os.WriteFile(filepath.Join(dir, "pids.max"), []byte("48"), 0))
		bomb := make(chan struct{})
		go func() {
			defer close(bomb)
			_, _ = ssh("ada", "bomb() { bomb | bomb & }; bomb; sleep 1000")
		}()
		eventually("the bomb has met its limit", func() bool { return !strings.HasPrefix(read(dir, "pids.events"), "max 0") })
		out, err := ssh("bob", "cat /proc/self/cgroup; for i in 1 2 3 4 5; do /bin/true || exit 1; done; echo works")
		if err != nil || !strings.HasSuffix(out, "works") {
			fail("%v: %s", err, out)
		}
		if now, _ := strconv.Atoi(read(dir, "pids.current")); now > 48 || strings.Contains(out, filepath.Base(dir)) {
			fail("ada has %d processes in %s, bob: %s", now, dir, out)
		}
		s.do("session", "close", "1", "--yes")
		<-bomb
		return out
	})
	r.run("a session that is closed leaves nothing", func() string {
		eventually("all of it is gone", func() bool {
			_, err := os.Stat(filepath.Join(dir, "cgroup.procs"))
			return len(alive(held)) == 0 && (err != nil || read(dir, "cgroup.procs") == "")
		})
		out := s.do("events", "--pool", "lab")
		for _, want := range []string{"ada came in by ssh", "ada left after", "bob left after"} {
			if !strings.Contains(out, want) {
				fail("no %q in:\n%s", want, out)
			}
		}
		return out
	})
}
