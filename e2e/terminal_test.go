package e2e_test

import (
	"bufio"
	"bytes"
	"errors"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

// playTimeout is how long one line of a play may take.
const playTimeout = 20 * time.Second

// screen collects what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen int // what was expected already
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// shows says whether what came since the last match matches, and goes past it.
func (s *screen) shows(want *regexp.Regexp) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := want.FindIndex(s.text.Bytes()[s.seen:])
	if at != nil {
		s.seen += at[1]
	}
	return at != nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// cmdTerminal runs a command on a terminal of its own and plays the person before it. The lines of
// PLAY are `see REGEXP`, which waits for it, and `type TEXT` with Go's escapes ("\x03" is Ctrl-C).
func cmdTerminal(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 2, "terminal N PLAY CMD [ARG...]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd, show := prepare(ts, args[2:]), &screen{}
	cmd.Env = append(cmd.Env, "TERM=xterm")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	ts.Check(err)
	defer tty.Close()
	read, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			show.Write(buf[:n])
			if err != nil {
				return // the last process on the terminal has ended
			}
		}
	}()
	go func() { ended <- cmd.Wait() }()
	fail := func(format string, more ...any) {
		_ = cmd.Process.Kill()
		ts.Logf("the terminal showed:\n%s", show)
		ts.Fatalf(format, more...)
	}
	for lines := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[1]))); lines.Scan(); {
		verb, text, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "see":
			re, err := regexp.Compile(text)
			ts.Check(err)
			for deadline := time.Now().Add(playTimeout); !show.shows(re); time.Sleep(pollEvery / 5) {
				if time.Now().After(deadline) {
					fail("the terminal does not show %q within %s", text, playTimeout)
				}
			}
		case "type":
			keys, err := strconv.Unquote(`"` + text + `"`)
			ts.Check(err)
			_, err = tty.Write([]byte(keys))
			ts.Check(err)
		default:
			fail("a play has see and type, not %q", lines.Text())
		}
	}
	var exit *exec.ExitError
	select {
	case err := <-ended:
		if err != nil && !errors.As(err, &exit) {
			fail("%v", err)
		}
	case <-time.After(playTimeout):
		fail("the command did not end within %s", playTimeout)
	}
	<-read
	ts.Stdout().Write([]byte(show.String()))
	if code := cmd.ProcessState.ExitCode(); code != want {
		ts.Fatalf("exit code %d, not %d", code, want)
	}
}
