package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Env is everything that commands see of the world around them.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Whether these are terminals: then there is colour, progress and questions.
	StdinTTY, StdoutTTY, StderrTTY bool
	Width                          func() int // of the terminal in columns
	LookupEnv                      func(string) (string, bool)
	Now                            func() time.Time
	Version                        string
	Signals                        <-chan os.Signal // nil: the process's own SIGINT and SIGTERM
	Extra                          []*cobra.Command // commands that package main adds
	// Secret reads a line from the terminal without showing it; nil: it cannot.
	Secret func(context.Context) (string, error)
	// Exec becomes another program, which it finds on the path; nil: the real one.
	Exec func(argv []string) error
	// Browse opens a page in the desktop's browser; nil: xdg-open does.
	Browse func(page string) error
	// Sleep waits, or returns why the context has ended; nil: on the real clock.
	Sleep func(context.Context, time.Duration) error
}

// System returns the Env of this process.
func System(version string, extra ...*cobra.Command) Env {
	tty := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	return Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		StdinTTY: tty(os.Stdin), StdoutTTY: tty(os.Stdout), StderrTTY: tty(os.Stderr),
		Width: func() int {
			w, _, _ := term.GetSize(int(os.Stderr.Fd()))
			return w
		},
		LookupEnv: os.LookupEnv, Now: time.Now, Version: version, Extra: extra, Secret: readSecret, Exec: become,
	}
}

// app is one run of the program.
type app struct {
	Env
	stateDir string
	mu       sync.Mutex
	catch    chan<- os.Signal // where signals go instead of ending the command
}

// New returns the command tree, for documentation and tests. Main runs it.
func New(env Env) *cobra.Command { return (&app{Env: env}).root() }

// Main runs the command that args name and returns the process's exit code.
func Main(ctx context.Context, args []string, env Env) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer a.watch(cancel)()
	return a.finish(root.ExecuteContext(ctx))
}

// interrupted is why a command ended that a signal ended.
type interrupted struct{ sig os.Signal }

func (i *interrupted) Error() string { return "interrupted by " + i.sig.String() }

// watch hands signals to whoever catches them; else the first ends the command's context
// and the second the process, as if nobody watched.
func (a *app) watch(cancel context.CancelCauseFunc) (stop func()) {
	signals, done := a.Signals, make(chan struct{})
	reset := func() {}
	if signals == nil {
		ch := make(chan os.Signal, 4)
		signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
		signals, reset = ch, func() { signal.Stop(ch) }
	}
	go func() {
		for {
			select {
			case sig := <-signals:
				a.mu.Lock()
				catch := a.catch
				a.mu.Unlock()
				if catch != nil {
					catch <- sig
					continue
				}
				cancel(&interrupted{sig})
				reset()
			case <-done:
				reset()
				return
			}
		}
	}()
	return func() { close(done) }
}

// interrupts gives signals to the caller until release.
func (a *app) interrupts() (ch <-chan os.Signal, release func()) {
	c := make(chan os.Signal, 16)
	a.setCatch(c)
	return c, func() { a.setCatch(nil) }
}

func (a *app) setCatch(c chan<- os.Signal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.catch = c
}

func (a *app) getenv(key string) string {
	v, _ := a.LookupEnv(key)
	return v
}

func (a *app) colours() bool {
	_, no := a.LookupEnv("NO_COLOR")
	return a.StdoutTTY && (!no || a.getenv("NO_COLOR") == "") && a.getenv("TERM") != "dumb"
}

// signalCode is 128 plus the signal's number, as shells have it.
func signalCode(sig os.Signal) int {
	if s, ok := sig.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return 130
}

func asInterrupted(err error) (*interrupted, bool) {
	var i *interrupted
	ok := errors.As(err, &i)
	return i, ok
}
