package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// reporter writes a line for every case. A case fails by panicking with a failure.
type reporter struct {
	line   *os.File
	place  string // what the names of cases begin with
	done   int
	broken bool // the place's server does not work: its other cases are not tried
}

type failure string

// fail ends the case.
func fail(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// run does one case; what it returns is for people.
func (r *reporter) run(name string, do func() string) (ok bool) {
	if r.broken {
		return false
	}
	begun := time.Now()
	detail := func() (detail string) {
		defer func() {
			switch f := recover().(type) {
			case nil:
				ok = true
			case failure:
				detail = string(f)
			default:
				detail = fmt.Sprintf("panic: %v", f)
			}
		}()
		return do()
	}()
	r.done++
	r.write(map[string]any{"case": r.place + "/" + name, "ok": ok, "detail": strings.TrimSpace(detail), "seconds": time.Since(begun).Seconds()})
	return ok
}

func (r *reporter) end() { r.write(map[string]any{"done": r.done}) }

func (r *reporter) write(line map[string]any) {
	data, _ := json.Marshal(line)
	_, _ = r.line.Write(append(data, '\n'))
}

// eventually waits for a condition; it polls because control groups tell nobody.
func eventually(what string, is func() bool) {
	for end := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			fail("%s: not within %s", what, patience)
		}
	}
}
