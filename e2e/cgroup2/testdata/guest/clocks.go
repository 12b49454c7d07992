package main

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setClock sets the computer's clock by so much ahead.
func setClock(by time.Duration) {
	tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	must(unix.Settimeofday(&tv))
}

// clocks: people come in and tasks run while the computer's clock is wrong, and when it is right again.
func clocks(r *reporter, s *server) {
	const day = 24 * time.Hour
	in := func(user string) {
		if out, err := ssh(user, "id -un"); err != nil || out != user {
			fail("%s: %v: %s\n%s\n%s", user, err, out, s.describe(), read(s.state, "gateway/gateway.log"))
		}
	}
	told := func(what ...string) string {
		out := s.do("status")
		for _, w := range what {
			if !strings.Contains(out, "the host's clock jumped "+w) {
				fail("no %q in:\n%s", w, out)
			}
		}
		return out
	}
	lives := func(before map[string]string) {
		for name := range before {
			if s.machines()[name] == "" {
				fail("machine %s is gone: %v\n%s", name, s.machines(), s.describe())
			}
		}
	}
	r.run("the clock is a day ahead for a moment", func() string {
		in("ada")
		before := s.machines()
		setClock(day)
		in("bob")
		setClock(-day)
		in("ada")
		in("bob")
		lives(before)
		return told("ahead by 24h", "back by 24h")
	})
	r.run("the clock is wrong when the server starts, and set right after", func() string {
		before := s.machines()
		s.stop(syscall.SIGTERM)
		setClock(-400 * day)
		*s = *start(s.state, s.place)
		s.ready()
		in("ada")
		s.do("run", "--cpus", "0.25", "--", "true")
		setClock(400 * day)
		in("ada")
		s.do("run", "--cpus", "0.25", "--", "true")
		lives(before)
		var bill struct{ Cost float64 }
		s.decode(&bill, "usage", "-o", "json")
		if bill.Cost < 0 {
			fail("the bill is %v", bill)
		}
		return fmt.Sprintf("%s\n%s", told("back by 9600h", "ahead by 9600h"), s.do("usage"))
	})
}
