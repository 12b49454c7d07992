package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dspool/dspool/client"
	"github.com/dspool/dspool/internal/suggest"
)

const rootLong = `dspool shares data-science machines among a team: jobs and people find a machine
when they need one, and it vanishes when nobody does.

On the server's host root needs nothing more. Elsewhere "dspool login" gets a
token and an SSH certificate for a password. Programs set DSPOOL_URL to the
server's address, DSPOOL_TOKEN to a token, and DSPOOL_CA to a file with what
"dspool ca" prints, unless the server has a public certificate.`

// Groups of commands in the help.
const (
	groupWork   = "work"
	groupJobs   = "jobs"
	groupPool   = "pool"
	groupPeople = "people"
	groupServer = "server"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "dspool", Short: "One shared pool of data-science machines", Long: rootLong,
		Example:       "  dspool ssh\n  dspool run -- python train.py\n  dspool job submit --array 1-100 -- python sweep.py\n  dspool status",
		SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs, RunE: groupRun,
	}
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetIn(a.Stdin)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.PersistentFlags().StringVar(&a.stateDir, "state-dir", "", "talk over the socket to the server of this state directory, `DIR`")
	_ = root.MarkPersistentFlagDirname("state-dir")
	root.AddGroup(&cobra.Group{ID: groupWork, Title: "Working there yourself:"}, &cobra.Group{ID: groupJobs, Title: "Jobs:"}, &cobra.Group{ID: groupPool, Title: "The pool:"},
		&cobra.Group{ID: groupPeople, Title: "People and money:"}, &cobra.Group{ID: groupServer, Title: "The server:"})
	add := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add(groupWork, a.login(), a.logout(), a.ssh(), a.sshConfig(), a.session(), a.apps())
	add(groupJobs, a.run(), a.job())
	add(groupPool, a.status(), a.pool(), a.machine(), a.door(), a.image(), a.size(), a.share(), a.events())
	add(groupPeople, a.user(), a.group(), a.token(), a.revoke(), a.recording(), a.usage())
	add(groupServer, a.apply(), a.ca(), a.version())
	add(groupServer, a.Extra...)
	root.AddCommand(&cobra.Command{Use: "exit-codes", Short: "What exit codes mean", Long: exitCodesText})
	return root
}

// command makes a command; use begins with its name, args say how many it takes.
func command(use, short, long, example string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Long: strings.TrimSpace(short + ".\n\n" + strings.TrimSpace(long)), Example: indent(example), Args: args, RunE: run}
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ")
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: groupRun}
	g.AddCommand(commands...)
	var examples []string
	for _, c := range commands {
		first, _, _ := strings.Cut(c.Example, "\n")
		examples = append(examples, first)
	}
	g.Example = strings.Join(examples, "\n")
	return g
}

// groupRun shows help; a word that is no command of the group is refused.
func groupRun(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, append(slices.Clone(c.Aliases), c.Name())...)
		}
	}
	e := badUsage(cmd, "%s has no command %s", cmd.CommandPath(), clean(args[0]))
	if s := suggest.Nearest(args[0], names); s != "" {
		e = e.WithHint("did you mean `%s %s`?", cmd.CommandPath(), s)
	}
	return e
}

// client returns a client of the server that flags and environment name.
func (a *app) client() (*client.Client, error) {
	o, err := client.FromEnv(a.getenv, a.stateDir)
	if err != nil {
		return nil, err
	}
	o.UserAgent = "dspool/" + a.Version
	return client.New(o)
}

// with gives a command's work the client.
func (a *app) with(work func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		return work(cmd.Context(), c, args)
	}
}

// completeTimeout keeps the Tab key from hanging on a server that does not answer.
const completeTimeout = 2 * time.Second

// completion offers what list finds on the server for the arguments that one may repeat.
func (a *app) completion(most int, list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		words, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.DeleteFunc(words, func(w string) bool {
			w, _, _ = strings.Cut(w, "\t")
			return slices.Contains(args, w)
		}), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag is completion for a flag's one value.
func (a *app) completeFlag(cmd *cobra.Command, flag string, list func(context.Context, *client.Client) ([]string, error)) {
	complete := a.completion(-1, list)
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return complete(cmd, nil, word)
	})
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.Stdout, format, args...) }

// say tells a person something that is no part of the output.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.Stderr, format+"\n", args...) }
