package initd_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dspool/dspool/internal/agent/initd"
)

func code(s initd.Status) string {
	if s.ExitCode == nil {
		return "none"
	}
	return strconv.Itoa(*s.ExitCode)
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	for i, c := range []struct {
		claim   string
		command []string
		code    string
		fault   string
	}{
		{"success is 0", []string{"true"}, "0", ""},
		{"an exit code is kept", []string{"/bin/sh", "-c", "exit 42"}, "42", ""},
		{"a signal is 128 more", []string{"/bin/sh", "-c", "kill -9 $$"}, "137", ""},
		{"a command that does not exist is 127", []string{"no-such-program"}, "127", `command "no-such-program" does not exist`},
		{"a path that does not exist is 127", []string{"/no/such/program"}, "127", `command "/no/such/program" does not exist`},
		{"a file that is no program is 126", []string{"/etc/passwd"}, "126", `is not executable for the user`},
		{"a directory is 126", []string{"/etc"}, "126", `is not executable for the user`},
	} {
		id := int64(i + 1)
		m.spawn(m.spec(id, c.command...))
		if s := m.exit(id); code(s) != c.code || !strings.Contains(s.Fault, c.fault) || (c.fault == "") != (s.Fault == "") {
			t.Errorf("%s: %+v code %s", c.claim, s, code(s))
		}
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	m := startMachine(t)
	m.spawn(m.sh(1, `trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done`))
	m.output(1, "up")
	must(t, m.Kill(t.Context(), initd.Kill{ID: 1, Cause: initd.Cancelled, Reason: "asked", Grace: 10 * time.Second}))
	if s := m.exit(1); code(s) != "3" || s.Cause != initd.Cancelled || s.Reason != "asked" {
		t.Errorf("%+v code %s", s, code(s))
	}
	m.output(1, "bye")
}
