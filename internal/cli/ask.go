package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/dspool/dspool"
)

// ask puts a question that y answers with yes, everything else with no. Only terminals are asked.
func (a *app) ask(ctx context.Context, format string, args ...any) (bool, error) {
	fmt.Fprintf(a.Stderr, format+" [y/N] ", args...)
	line, err := a.line(ctx)
	if err != nil {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// maxLine bounds one line that people type or pipe in.
const maxLine = 64 << 10

// line reads one line of stdin, without its end, and nothing after it.
func (a *app) line(ctx context.Context) (string, error) {
	return until(ctx, func() (string, error) {
		var b strings.Builder
		for one := make([]byte, 1); ; {
			n, err := a.Stdin.Read(one)
			if n == 1 && one[0] == '\n' {
				return strings.TrimSuffix(b.String(), "\r"), nil
			}
			b.Write(one[:n])
			switch {
			case err == io.EOF && b.Len() > 0:
				return b.String(), nil
			case err == io.EOF:
				return "", dspool.Errorf(dspool.Invalid, "stdin ended before an answer came")
			case err != nil:
				return "", while(err, "read stdin")
			case b.Len() > maxLine:
				return "", dspool.Errorf(dspool.Invalid, "the line on stdin is longer than %s", dspool.FormatBytes(maxLine))
			}
		}
	})
}

// until gives up waiting for a read when the context ends; the read itself ends with the process.
func until(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// secret asks on the terminal for something that is not shown.
func (a *app) secret(ctx context.Context, prompt string) (string, error) {
	if !a.StdinTTY || a.Secret == nil {
		return "", dspool.Errorf(dspool.Invalid, "there is no terminal to ask for a password").WithHint("give it on stdin, with --stdin")
	}
	fmt.Fprint(a.Stderr, clean(prompt)+": ")
	s, err := a.Secret(ctx)
	fmt.Fprintln(a.Stderr)
	return s, err
}

// newSecret asks twice for a password that nobody can see.
func (a *app) newSecret(ctx context.Context, user string) (string, error) {
	first, err := a.secret(ctx, "new password of "+user)
	if err != nil {
		return "", err
	}
	again, err := a.secret(ctx, "once more")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", dspool.Errorf(dspool.Invalid, "the two passwords differ; nothing was changed")
	}
	return first, nil
}

// readSecret reads from the process's terminal, which shows what is typed again afterwards, also when a
// signal ends the wait.
func readSecret(ctx context.Context) (string, error) {
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", while(err, "ask on the terminal")
	}
	s, err := until(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(fd, before)
	}
	if errors.Is(err, io.EOF) {
		return "", dspool.Errorf(dspool.Invalid, "no password was given")
	}
	return s, err
}

// become replaces this process by another program: keyboard, signals and exit code are then its own.
func become(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return dspool.Errorf(dspool.Unavailable, "the program %s is not installed here", argv[0]).WithHint("on Debian and Ubuntu: apt install openssh-client")
	}
	return while(syscall.Exec(path, argv, os.Environ()), "start %s", path)
}
