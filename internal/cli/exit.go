package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dspool/dspool"
	"github.com/dspool/dspool/client"

	"github.com/dspool/dspool/internal/suggest"
)

// Exit codes. They are part of the contract with scripts.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitForbidden   = 4
	exitUnavailable = 5
	exitConflict    = 6
)

const exitCodesText = `Every command ends with one of these codes:

  0    it did what was asked
  1    it failed; also: a job that was waited for did not succeed
  2    wrong usage or bad input: repeating it is pointless
  3    what was named does not exist, or is hidden from this user
  4    not allowed, or no valid token
  5    no server answers, or what is needed is not available now
  6    the thing is in a state that does not allow this
  130  ended by Ctrl-C (143: by SIGTERM)

"dspool run" ends with the exit code of the task itself, which is 128 plus the
signal's number where a signal ended it; with 1 where the task could not start,
was lost with its machine or was cancelled by somebody else; and with 0 when
you detach from it.`

var exitCodes = map[dspool.Code]int{
	dspool.Invalid: exitUsage, dspool.NotFound: exitNotFound, dspool.Forbidden: exitForbidden, dspool.Unauthenticated: exitForbidden,
	dspool.Unavailable: exitUnavailable, dspool.Conflict: exitConflict, dspool.Internal: exitFailed,
}

// exit ends the program with a code; err, unless nil, is said first.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// finish says what went wrong and returns the exit code.
func (a *app) finish(err error) int {
	if err == nil {
		return exitOK
	}
	if i, ok := asInterrupted(err); ok {
		return signalCode(i.sig)
	}
	var e *exit
	if errors.As(err, &e) {
		if e.err != nil {
			a.complain(e.err)
		}
		return e.code
	}
	if errors.Is(err, context.Canceled) {
		return exitFailed
	}
	a.complain(err)
	if code, known := exitCodes[dspool.ErrorCode(err)]; known {
		return code
	}
	return exitFailed
}

// complain prints an error with its hint and its single problems.
func (a *app) complain(err error) {
	message, hint := err.Error(), ""
	var d *dspool.Error
	if errors.As(err, &d) {
		message, hint = d.Message, d.Hint
		var task *doing
		if errors.As(err, &task) {
			message = task.what + ": " + message
		}
	}
	problems := client.Problems(err)
	if len(problems) == 1 { // the message is about it
		problems = nil
	}
	if len(problems) > 0 {
		message, hint = fmt.Sprintf("%d problems; nothing was changed", len(problems)), ""
	}
	fmt.Fprintln(a.Stderr, "dspool: "+clean(message))
	for _, p := range problems {
		fmt.Fprintf(a.Stderr, "  %s: %s\n", clean(p.Location), clean(p.Message))
		if p.Hint != "" {
			fmt.Fprintf(a.Stderr, "      hint: %s\n", clean(p.Hint))
		}
	}
	if hint != "" {
		fmt.Fprintln(a.Stderr, "hint: "+clean(hint))
	}
}

// badUsage is an error of the command line itself.
func badUsage(cmd *cobra.Command, format string, args ...any) *dspool.Error {
	return dspool.Errorf(dspool.Invalid, format, args...).WithHint("see `%s --help`", cmd.CommandPath())
}

// flagError turns pflag's errors into sentences.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &value):
		cause := value.Unwrap()
		var d *dspool.Error
		if errors.As(cause, &d) {
			e := dspool.Errorf(dspool.Invalid, "--%s: %s", value.GetFlag().Name, d.Message)
			e.Hint = d.Hint
			return e
		}
		return badUsage(cmd, "--%s: %s is not possible", value.GetFlag().Name, dspool.Quote(value.GetValue()))
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			return badUsage(cmd, "%s has no flag -%s", cmd.CommandPath(), clean(name))
		}
		e := badUsage(cmd, "%s has no flag --%s", cmd.CommandPath(), clean(name))
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if s := suggest.Nearest(name, names); s != "" {
			e = e.WithHint("did you mean --%s?", s)
		}
		return e
	case errors.As(err, &missing):
		return badUsage(cmd, "--%s needs a value", missing.GetSpecifiedName())
	}
	return badUsage(cmd, "%v", err)
}

// positional checks how many arguments there are; usage names them.
func positional(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return dspool.Errorf(dspool.Invalid, "%s needs more: %s", cmd.CommandPath(), strings.TrimPrefix(cmd.UseLine(), cmd.Root().Name()+" ")).
				WithHint("see `%s --help`", cmd.CommandPath())
		case most >= 0 && len(args) > most:
			return badUsage(cmd, "%s takes no argument %s", cmd.CommandPath(), dspool.Quote(args[most]))
		}
		return nil
	}
}

// doing is what was being done when something went wrong.
type doing struct {
	what string
	err  error
}

func (e *doing) Error() string { return e.what + ": " + e.err.Error() }
func (e *doing) Unwrap() error { return e.err }

// while says what was being done when err happened; nil stays nil.
func while(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &doing{fmt.Sprintf(format, args...), err}
}
