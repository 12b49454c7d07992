package cli

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool"
)

// value is a flag whose text is parsed by one of package dspool's functions.
type value[T any] struct {
	into  *T
	parse func(string) (T, error)
	kind  string
	text  string
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

func (v *value[T]) Set(s string) error {
	t, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.into, v.text = t, s
	return nil
}

func flag[T any](cmd *cobra.Command, into *T, name, kind, usage string, parse func(string) (T, error)) {
	cmd.Flags().Var(&value[T]{into: into, parse: parse, kind: kind}, name, usage)
}

// text adds a flag of free text; what names its value in the help.
func text(cmd *cobra.Command, into *string, name, what, usage string) {
	flag(cmd, into, name, what, usage, func(s string) (string, error) { return s, nil })
}

// count adds a flag of a whole number, with the value that into has as its default.
func count(cmd *cobra.Command, into *int, name, usage string) {
	v := &value[int]{into: into, kind: "N", parse: func(s string) (int, error) {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return 0, dspool.Errorf(dspool.Invalid, "%s is not a whole number", dspool.Quote(s))
		}
		return int(n), nil
	}}
	if *into != 0 {
		v.text = strconv.Itoa(*into)
	}
	cmd.Flags().Var(v, name, usage)
}

func word(words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if slices.Contains(words, s) {
			return s, nil
		}
		return "", dspool.Errorf(dspool.Invalid, "%s is not possible", dspool.Quote(s)).WithHint("use %s", strings.Join(words, ", "))
	}
}

func choice(cmd *cobra.Command, into *string, name, short, usage string, words ...string) {
	*into = words[0]
	cmd.Flags().VarP(&value[string]{into: into, parse: word(words...), kind: strings.TrimPrefix(strings.Join(words, "|"), "|"), text: words[0]}, name, short, usage)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// listOutput adds -o to a listing.
func listOutput(cmd *cobra.Command, into *string) *cobra.Command {
	choice(cmd, into, "output", "o", "form of the output", "table", "json", "csv")
	return cmd
}

// showOutput adds -o to a command about one thing.
func showOutput(cmd *cobra.Command, into *string) *cobra.Command {
	choice(cmd, into, "output", "o", "form of the output", "text", "json")
	return cmd
}

// array keeps an array's text once it is known to be one.
func array(s string) (string, error) {
	if s == "" {
		return "", dspool.Errorf(dspool.Invalid, "the array is empty").WithHint("for example 1-1000 or 1-10,20")
	}
	_, err := dspool.ParseIndexSet(s)
	return s, err
}

// moment reads a time, or how long ago it was.
func (a *app) moment(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if d, err := dspool.ParseDuration(s); err == nil {
		return a.Now().Add(-time.Duration(d)), nil
	}
	return time.Time{}, dspool.Errorf(dspool.Invalid, "%s is not a time", dspool.Quote(s)).
		WithHint("for example 24h (ago), 2026-11-01 or 2026-11-01T08:00:00Z")
}
