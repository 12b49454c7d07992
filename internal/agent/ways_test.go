package agent_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/api"
)

// whoScript tells in the file $1 who it runs as, with which rights and limits, and in what environment.
const whoScript = `
umask >"$1.new"
: >"$1.made"
{
	id
	id -G
	stat -c %A "$1.made"
	ulimit -a
	locale 2>/dev/null | grep -v '^LC_.*="'
	env | grep -E '^(PATH|LANG|HOME|USER|LOGNAME|SHELL|OF_IMAGE)=' | sort
	touch /srv/lab/"${1##*/}" && stat -c '%A %G' /srv/lab/"${1##*/}"
} >>"$1.new" 2>&1
mv "$1.new" "$1"
`

// A program that runs as a user is the same one, whichever way it was started.
func TestEveryWayInBecomesTheSameUser(t *testing.T) {
	t.Parallel()
	s, ca := newServer(t), newAuthority(t)
	s.sshTrust = ca.line()
	m := startRealMachine(t, s, map[string]int{"alice": 20001})
	s.await("the machine enrolled", func() bool { return s.enrolments > 0 })
	must(t, os.WriteFile(m.inside("etc/environment"), []byte("OF_IMAGE=yes\nPATH=/opt/lab/bin:/usr/bin:/bin\n"), 0o644))
	must(t, os.Mkdir(m.inside("srv/lab"), 0o755))
	must(t, os.Chown(m.inside("srv/lab"), 0, 20500))
	must(t, os.Chmod(m.inside("srv/lab"), 0o770|os.ModeSetgid))
	must(t, os.WriteFile(m.inside("home/alice/who"), []byte(whoScript), 0o644))

	alice := directive(1, "alice", 20001)
	alice.Groups = []api.GroupID{{Name: "lab", GID: 20500}}
	// The task comes first: to the machine its user is a new one.
	s.put(api.AttemptDirective{ID: 9, Job: 9}, api.TaskSpec{
		Job: 9, Account: alice.Account, Dir: "/home/alice/jobs", Command: []string{"sh", "/home/alice/who", "/home/alice/task"}, Count: 1,
		Request: dspool.Resources{CPUs: 1, Memory: 64 << 20},
	})
	said := func(way string) (text string) {
		t.Helper()
		m.await(way, func() bool {
			b, err := os.ReadFile(m.inside("home/alice/" + way))
			text = string(b)
			return err == nil
		})
		return text
	}
	task := said("task")
	for _, want := range []string{
		"0022\n", "uid=20001(alice) gid=20001(alice) groups=20001(alice),20500(lab)\n", "\n20001 20500\n", "\n-rw-r--r--\n",
		"LANG=C.UTF-8\n", "\nPATH=/opt/lab/bin:/usr/bin:/bin\n", "\nHOME=/home/alice\n", "\nSHELL=/bin/bash\n", "\nOF_IMAGE=yes\n", "\n-rw-r--r-- lab\n",
	} {
		if !strings.Contains(task, want) {
			t.Errorf("a task says no %q in\n%s", want, task)
		}
	}

	s.seat(withApps(alice, api.AppDirective{ID: 11, Name: "who", Command: []string{"sh", "-c", "sh ~/who ~/app; exec sleep 1000"}}))
	s.open(1)
	c, err := m.login("alice", ca.certificate(time.Hour, "alice"), s.hostKey)
	must(t, err)
	defer c.Close()
	if out, code := run(t, c, "sh ~/who ~/command"); code != 0 {
		t.Errorf("a command says %s, exit code %d", out, code)
	}
	term := openTerminal(t, c)
	defer term.Close()
	_, err = term.in.Write([]byte("sh ~/who ~/terminal\n"))
	must(t, err)
	for _, way := range []string{"command", "terminal", "app"} {
		if got := said(way); got != task {
			t.Errorf("by %s:\n%s\nas a task:\n%s", way, got, task)
		}
	}
	for path, want := range map[string]string{"home/alice/jobs": "drwxr-xr-x", "home/alice/jobs/0/stdout.txt": "-rw-r--r--", "home/alice/jobs/0": "drwxr-xr-x"} {
		if info, err := os.Stat(m.inside(path)); err != nil || info.Mode().String() != want {
			t.Errorf("%s: %v, %v; want %s", path, info, err, want)
		}
	}
}
